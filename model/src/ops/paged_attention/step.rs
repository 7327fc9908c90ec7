//! A step's new tokens, and the tables of items that a GPU's kernels work off.
//!
//! Tokens that stand next to each other and read the same pages (a prompt's own, or the candidates of one prompt) go
//! together, and read them once. What lies past the shared pages each token reads alone. Long stretches of keys are cut
//! into parts of [`PART_KEYS`], which are joined in their order: by the one own part, where there is but one, or by a pass of
//! their own. Where the cuts are goes by a token's position and the length of its prompt alone, so that its bits depend neither
//! on its company nor on how its prompt was cut into chunks.

use crate::kv_cache::{PAGE_TOKENS, PagedRow};

/// Keys of a part at most: a multiple of a page and of every kernel's tile.
const PART_KEYS: usize = 512;
/// Numbers of a `PageItem`.
const ITEM: usize = 6;
/// `NO_SLOT`.
const NO_SLOT: u32 = u32::MAX;

/// One new token of a row.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub(super) pages: &'a [u32],
    pub(super) position: usize,
    /// [`PagedRow::shared`].
    pub(super) shared: usize,
}

impl<'a> Query<'a> {
    /// The new tokens of `rows`, one row after the other.
    pub(super) fn all(rows: &[PagedRow<'a>]) -> Vec<Self> {
        rows.iter()
            .flat_map(|row| {
                let PagedRow { pages, shared, .. } = *row;
                let new = row.context..row.context + row.new_tokens;
                new.map(move |position| Query { pages, position, shared })
            })
            .collect()
    }
}

/// Tokens of an item with common keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemTokens {
    /// At most.
    pub(super) most: usize,
    /// As many as the narrow form of the kernel takes.
    pub(super) narrow: usize,
}

/// What the kernels know of a step, on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepTables {
    /// Each token's own slot: page · 16 + place.
    slots: Vec<u32>,
    positions: Vec<u32>,
    /// The tokens whose parts a pass of its own joins.
    joins: Vec<u32>,
    /// Where each token's parts begin, and where the last one's end. One that has its result from one item has none, nor has the
    /// last part of one that joins the others.
    part_start: Vec<u32>,
    /// `PageItem`s of one token.
    own: Vec<[i32; ITEM]>,
    /// `PageItem`s of tokens with common keys.
    common: Vec<[i32; ITEM]>,
    /// The rows' pages, one row after the other.
    tables: Vec<u32>,
    /// Whether an item with common keys has more tokens than the narrow form takes.
    is_wide: bool,
}

/// Numbers that a step's tables hold at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TableCapacity {
    tokens: usize,
    pub(super) own: usize,
    pub(super) common: usize,
    pub(super) joins: usize,
    parts: usize,
    tables: usize,
    pub(super) is_wide: bool,
}

impl TableCapacity {
    /// For `tokens` tokens; rounds the other capacities up, so that the following steps fit the same captured graph.
    pub(crate) fn rounded(&self, tokens: usize) -> Self {
        Self {
            tokens,
            own: self.own.next_multiple_of(tokens.max(1)),
            common: self.common.next_power_of_two(),
            joins: if self.joins > 0 { tokens } else { 0 },
            parts: self.parts.next_power_of_two(),
            tables: self.tables.next_power_of_two(),
            is_wide: self.is_wide,
        }
    }

    /// Parts at most.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    /// Tokens at most.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Words of all tables together.
    pub(crate) fn words(&self) -> usize {
        self.starts()[7].max(1)
    }

    pub(crate) fn holds(&self, other: &Self) -> bool {
        self.tokens >= other.tokens
            && self.own >= other.own
            && self.common >= other.common
            && self.joins >= other.joins
            && self.parts >= other.parts
            && self.tables >= other.tables
            && self.is_wide >= other.is_wide
    }

    /// Where each table begins among the words, in the order of [`StepTables`]' fields, and their number.
    pub(super) fn starts(&self) -> [usize; 8] {
        let sizes = [
            self.tokens,
            self.tokens,
            self.joins,
            self.tokens + 1,
            self.own * ITEM,
            self.common * ITEM,
            self.tables,
        ];
        let mut starts = [0; 8];
        for (i, size) in sizes.into_iter().enumerate() {
            starts[i + 1] = starts[i] + size;
        }
        starts
    }
}

impl StepTables {
    /// The tables of a step.
    pub(super) fn new(queries: &[Query], together: ItemTokens) -> Self {
        let mut tables = Self::default();
        let mut row: Option<&[u32]> = None;
        // Where each token's row begins among the pages.
        let mut table_start = Vec::with_capacity(queries.len());
        let (mut start, mut parts) = (0, 0);
        for (token, query) in queries.iter().enumerate() {
            let Query { pages, position, shared } = *query;
            // Tokens of one row follow each other.
            if !row.is_some_and(|row| std::ptr::eq(row, pages)) {
                start = tables.tables.len() as i32;
                tables.tables.extend_from_slice(pages);
                row = Some(pages);
            }
            let slot = pages[position / PAGE_TOKENS] * PAGE_TOKENS as u32 + (position % PAGE_TOKENS) as u32;
            tables.slots.push(slot);
            tables.positions.push(position as u32);
            table_start.push(start);
            tables.part_start.push(parts);
            if position < shared {
                continue;
            }
            let common = shared.div_ceil(PART_KEYS);
            let own = (position + 1 - shared).div_ceil(PART_KEYS);
            let joins_itself = own == 1;
            for (i, from) in (shared..=position).step_by(PART_KEYS).enumerate() {
                let part = if joins_itself { -1 - common as i32 } else { (common + i) as i32 };
                let to = (from + PART_KEYS).min(position + 1);
                tables.own.push([token as i32, 1, from as i32, to as i32, part, start]);
            }
            if joins_itself {
                parts += common as u32;
            } else {
                parts += (common + own) as u32;
                tables.joins.push(token as u32);
            }
        }
        tables.part_start.push(parts);
        tables.add_common(queries, together, &table_start);
        tables
    }

    /// Adds the items of tokens with common keys.
    fn add_common(&mut self, queries: &[Query], together: ItemTokens, table_start: &[i32]) {
        let most = together.most.max(1);
        let mut first = 0;
        while first < queries.len() {
            let run = common_run(&queries[first..]);
            for (chunk, tokens) in queries[first..first + run].chunks(most).enumerate() {
                let first = first + chunk * most;
                let (token, count, table) = (first as i32, tokens.len() as i32, table_start[first]);
                let (Some(Query { position, shared, .. }), Some(last)) = (tokens.first(), tokens.last())
                else {
                    continue;
                };
                let before = self.common.len();
                if position < shared {
                    self.common.push([token, count, 0, last.position as i32 + 1, -1, table]);
                } else {
                    for (part, from) in (0..*shared).step_by(PART_KEYS).enumerate() {
                        let to = (from + PART_KEYS).min(*shared);
                        self.common.push([token, count, from as i32, to as i32, part as i32, table]);
                    }
                }
                self.is_wide |= self.common.len() > before && tokens.len() > together.narrow;
            }
            first += run;
        }
    }

    /// The capacity that just fits these.
    pub(crate) fn capacity(&self) -> TableCapacity {
        TableCapacity {
            tokens: self.slots.len(),
            own: self.own.len(),
            common: self.common.len(),
            joins: self.joins.len(),
            parts: self.part_start.last().map_or(0, |&parts| parts as usize),
            tables: self.tables.len(),
            is_wide: self.is_wide,
        }
    }

    /// Fills [`TableCapacity::words`] words with all tables one after the other, each filled up to its capacity by what does
    /// nothing.
    pub(crate) fn fill(&self, capacity: &TableCapacity, words: &mut [u32]) {
        let starts = capacity.starts();
        words.fill(0);
        let mut put = |table: usize, values: &mut dyn Iterator<Item = u32>| {
            words[starts[table]..].iter_mut().zip(values).for_each(|(word, value)| *word = value);
        };
        let fill = capacity.tokens - self.slots.len();
        put(0, &mut self.slots.iter().copied().chain(std::iter::repeat_n(NO_SLOT, fill)));
        put(1, &mut self.positions.iter().copied());
        let joins = capacity.joins - self.joins.len();
        put(2, &mut self.joins.iter().copied().chain(std::iter::repeat_n(NO_SLOT, joins)));
        let end = self.part_start.last().copied().unwrap_or(0);
        put(3, &mut self.part_start.iter().copied().chain(std::iter::repeat_n(end, fill)));
        put(4, &mut self.own.iter().flatten().map(|&number| number as u32));
        put(5, &mut self.common.iter().flatten().map(|&number| number as u32));
        put(6, &mut self.tables.iter().copied());
    }
}

/// How many of the first tokens read common pages: a prompt's own tokens, or tokens past the same shared pages. A token
/// that shares none is a run of its own.
fn common_run(queries: &[Query]) -> usize {
    let Some(first) = queries.first() else { return 0 };
    let pages = &first.pages[..first.shared / PAGE_TOKENS];
    let goes_on = |query: &&Query| {
        if first.position < first.shared {
            return std::ptr::eq(query.pages, first.pages) && query.position < first.shared;
        }
        query.shared == first.shared
            && query.position >= first.shared
            && (std::ptr::eq(query.pages, first.pages) || query.pages[..pages.len()] == *pages)
    };
    queries.iter().take_while(goes_on).count().max(1)
}

#[cfg(test)]
mod tests;
