//! The GPU form of paged attention: how a step is cut into items, and the launches (`cuda/paged_attention.cu`).
//!
//! Tokens that stand next to each other and read the same pages (a prompt's own, or the candidates of one prompt) go
//! together, and read them once. What lies past the shared pages each token reads alone. Long stretches of keys are cut
//! into parts of [`PART_KEYS`], which are joined in their order. Where the cuts are goes by a token's position and the
//! length of its prompt alone, so that its bits depend neither on its company nor on how its prompt was cut into chunks.

use candle_core::{DType, Result, Tensor, bail};

use super::attention::Attention;
use super::attention_gpu::{Form, compiled_head_dim};
use super::gpu::{Argument, Gpu, int, pointer, suffix};
use super::paged_attention::Query;
use super::rope::RopeTable;
use crate::kv_cache::PAGE_TOKENS;

/// Keys of a part at most: a multiple of a page and of every kernel's tile.
const PART_KEYS: usize = 512;
/// Numbers of a `PageItem`.
const ITEM: usize = 5;
/// `NO_SLOT`.
const NO_SLOT: u32 = u32::MAX;

/// What the kernels know of a step, on the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct StepTables {
    /// Each token's own slot: page · 16 + place.
    slots: Vec<u32>,
    positions: Vec<u32>,
    /// Where each token's row begins in `tables`.
    table_start: Vec<u32>,
    /// Where each token's parts begin, and where the last one's end. One that has its result from one item has none.
    part_start: Vec<u32>,
    /// `PageItem`s of one token.
    own: Vec<[i32; ITEM]>,
    /// `PageItem`s of tokens with common keys.
    common: Vec<[i32; ITEM]>,
    /// The rows' pages, one row after the other.
    tables: Vec<u32>,
}

/// Room for a step's tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Room {
    tokens: usize,
    own: usize,
    common: usize,
    parts: usize,
    tables: usize,
}

impl Room {
    /// Room for `tokens` tokens, and for more of the rest than this: so much that the next steps fit too.
    pub(crate) fn rounded(&self, tokens: usize) -> Self {
        Self {
            tokens,
            own: self.own.next_multiple_of(tokens.max(1)),
            common: self.common.next_power_of_two(),
            parts: self.parts.next_power_of_two(),
            tables: self.tables.next_power_of_two(),
        }
    }

    /// The parts that there is room for.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    /// The tokens that there is room for.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    fn holds(&self, other: &Self) -> bool {
        self.tokens >= other.tokens
            && self.own >= other.own
            && self.common >= other.common
            && self.parts >= other.parts
            && self.tables >= other.tables
    }

    /// Where each table begins among the words, in the order of [`StepTables`]' fields, and their number.
    fn starts(&self) -> [usize; 8] {
        let sizes = [
            self.tokens,
            self.tokens,
            self.tokens,
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
    /// The tables of a step, by the heads of `attention`.
    pub(super) fn of(queries: &[Query], attention: &Attention, dtype: DType) -> Result<Self> {
        Ok(Self::new(queries, tokens_together(attention, dtype)?))
    }

    /// The tables of a step; `together` tokens with common keys make one item.
    fn new(queries: &[Query], together: usize) -> Self {
        let mut tables = Self::default();
        let mut row: Option<&[u32]> = None;
        let mut start = 0;
        let mut parts = 0;
        for (token, query) in queries.iter().enumerate() {
            let Query { pages, position, shared } = *query;
            // Tokens of one row follow each other.
            if !row.is_some_and(|row| std::ptr::eq(row, pages)) {
                start = tables.tables.len();
                tables.tables.extend_from_slice(pages);
                row = Some(pages);
            }
            let slot = pages[position / PAGE_TOKENS] * PAGE_TOKENS as u32 + (position % PAGE_TOKENS) as u32;
            tables.slots.push(slot);
            tables.positions.push(position as u32);
            tables.table_start.push(start as u32);
            tables.part_start.push(parts);
            if position >= shared {
                let common = shared.div_ceil(PART_KEYS);
                let all = common + (position + 1 - shared).div_ceil(PART_KEYS);
                for (i, from) in (shared..=position).step_by(PART_KEYS).enumerate() {
                    let part = if all > 1 { (common + i) as i32 } else { -1 };
                    let to = (from + PART_KEYS).min(position + 1);
                    tables.own.push([token as i32, 1, from as i32, to as i32, part]);
                }
                parts += if all > 1 { all as u32 } else { 0 };
            }
        }
        tables.part_start.push(parts);
        let mut first = 0;
        while first < queries.len() {
            let run = common_run(&queries[first..]);
            for (chunk, tokens) in queries[first..first + run].chunks(together.max(1)).enumerate() {
                let (token, count) = ((first + chunk * together.max(1)) as i32, tokens.len() as i32);
                let (Some(Query { position, shared, .. }), Some(last)) = (tokens.first(), tokens.last())
                else {
                    continue;
                };
                if position < shared {
                    tables.common.push([token, count, 0, last.position as i32 + 1, -1]);
                } else {
                    for (part, from) in (0..*shared).step_by(PART_KEYS).enumerate() {
                        let to = (from + PART_KEYS).min(*shared);
                        tables.common.push([token, count, from as i32, to as i32, part as i32]);
                    }
                }
            }
            first += run;
        }
        tables
    }

    /// Room for just these.
    pub(crate) fn room(&self) -> Room {
        Room {
            tokens: self.slots.len(),
            own: self.own.len(),
            common: self.common.len(),
            parts: self.part_start.last().map_or(0, |&parts| parts as usize),
            tables: self.tables.len(),
        }
    }

    /// All tables one after the other, each filled up to its room by what does nothing.
    fn words(&self, room: &Room) -> Vec<u32> {
        let starts = room.starts();
        let mut words = vec![0; starts[7].max(1)];
        let mut put = |table: usize, values: &mut dyn Iterator<Item = u32>| {
            words[starts[table]..].iter_mut().zip(values).for_each(|(word, value)| *word = value);
        };
        let fill = room.tokens - self.slots.len();
        put(0, &mut self.slots.iter().copied().chain(std::iter::repeat_n(NO_SLOT, fill)));
        put(1, &mut self.positions.iter().copied());
        put(2, &mut self.table_start.iter().copied());
        let end = self.part_start.last().copied().unwrap_or(0);
        put(3, &mut self.part_start.iter().copied().chain(std::iter::repeat_n(end, fill)));
        put(4, &mut self.own.iter().flatten().map(|&number| number as u32));
        put(5, &mut self.common.iter().flatten().map(|&number| number as u32));
        put(6, &mut self.tables.iter().copied());
        words
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

/// Room for the results of parts: \[parts, heads, d] and \[parts, heads, 2]. Steps may have the same: each layer of each is done
/// with it before the next begins.
#[derive(Clone)]
pub(crate) struct PartResults {
    parts: Tensor,
    stats: Tensor,
}

impl PartResults {
    pub(crate) fn new(gpu: &Gpu, room: &Room, attention: &Attention) -> Result<Self> {
        let (parts, heads, d) = (room.parts.max(1), attention.heads, attention.head_dim);
        Ok(Self {
            parts: gpu.unwritten((parts, heads, d), DType::F32)?,
            stats: gpu.unwritten((parts, heads, 2), DType::F32)?,
        })
    }
}

/// A step's tables on a GPU.
pub(crate) struct Uploaded {
    words: Tensor,
    room: Room,
    results: PartResults,
}

impl Uploaded {
    /// Some tables, filled up to `room`, for which there must be room in `results` too.
    pub(crate) fn new(gpu: &Gpu, tables: &StepTables, room: Room, results: PartResults) -> Result<Self> {
        Ok(Self { words: gpu.upload(&tables.words(&room))?, room, results })
    }

    /// Another step's tables in the place of these; they must fit.
    pub(crate) fn update(&self, gpu: &Gpu, tables: &StepTables) -> Result<()> {
        if !self.room.holds(&tables.room()) {
            bail!("tables of {:?} where there is room for {:?}", tables.room(), self.room)
        }
        self.words.slice_set(&gpu.upload(&tables.words(&self.room))?, 0, 0)
    }

    /// The address of a table, by its place in [`StepTables`].
    fn table(&self, table: usize) -> Result<Argument> {
        match pointer(&self.words)? {
            Argument::Pointer(first) => Ok(Argument::Pointer(first + 4 * self.room.starts()[table] as u64)),
            other => bail!("an address, not {other:?}"),
        }
    }

    /// Rope and the new tokens' keys and values into their pages, in one pass.
    pub(super) fn write(
        &self,
        gpu: &Gpu,
        attention: &Attention,
        qkv: &Tensor,
        rope: &RopeTable,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let [cos, sin] = rope.on(gpu)?;
        let arguments = [
            pointer(qkv)?,
            pointer(keys)?,
            pointer(values)?,
            pointer(&cos)?,
            pointer(&sin)?,
            self.table(1)?,
            self.table(0)?,
            int(attention.heads)?,
            int(attention.kv_heads)?,
            int(attention.head_dim / 2)?,
        ];
        gpu.launch("rope_pages", qkv.dtype(), [self.room.tokens, 1, 1], 256, 0, &arguments)
    }

    /// The tokens' results \[t, heads · d].
    pub(super) fn attend(
        &self,
        gpu: &Gpu,
        attention: &Attention,
        qkv: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<Tensor> {
        let (t, d, heads, dtype) = (qkv.dims2()?.0, attention.head_dim, attention.heads, qkv.dtype());
        let out = gpu.unwritten((t, heads * d), dtype)?;
        let launch = |kernel: &str, d: usize, items: usize, table: usize, warps: usize, shared: usize| {
            let mut arguments = vec![
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                pointer(qkv)?,
                pointer(keys)?,
                pointer(values)?,
                self.table(table)?,
                self.table(6)?,
                self.table(2)?,
                self.table(1)?,
                self.table(3)?,
            ];
            arguments.extend(attention.shape_arguments()?);
            let kernel = format!("{kernel}_{}_{d}", suffix(dtype)?);
            gpu.launch_single(&kernel, [items, attention.kv_heads, 1], 32 * warps, shared, &arguments)
        };
        let form = Form::of(dtype, d, false)?;
        let shared = form.tile(dtype, form.rows() + 2 * form.stream);
        launch("attend_common_pages", form.d, self.room.common, 5, form.warps, shared)?;
        let own = OwnForm::of(dtype, d)?;
        launch("attend_pages", own.d, self.room.own, 4, own.warps, own.shared(dtype))?;
        if self.room.parts > 0 {
            let arguments = [
                pointer(&out)?,
                pointer(&self.results.parts)?,
                pointer(&self.results.stats)?,
                self.table(3)?,
                int(heads)?,
                int(d)?,
            ];
            gpu.launch("join_parts", dtype, [t, 1, 1], 256, 0, &arguments)?;
        }
        Ok(out)
    }
}

/// Tokens whose query heads of one key head fill a block of `attend_common_pages`.
fn tokens_together(attention: &Attention, dtype: DType) -> Result<usize> {
    let rows = Form::of(dtype, attention.head_dim, false)?.rows();
    Ok((rows / (attention.heads / attention.kv_heads)).max(1))
}

/// The compiled form of `attend_pages`: `ATTEND_PAGES` of paged_attention.cu has the same numbers.
struct OwnForm {
    /// Head size that is compiled for.
    d: usize,
    /// Keys of a tile.
    keys: usize,
    warps: usize,
}

impl OwnForm {
    fn of(dtype: DType, head_dim: usize) -> Result<Self> {
        let d = compiled_head_dim(head_dim)?;
        Ok(match (dtype, d) {
            (DType::BF16, 256) => Self { d, keys: 16, warps: 4 },
            (DType::BF16, _) => Self { d, keys: 32, warps: 4 },
            _ => Self { d, keys: 16, warps: 2 },
        })
    }

    /// Bytes of shared memory: sixteen query heads, a tile of keys and one of values for each warp, maxima and sums.
    fn shared(&self, dtype: DType) -> usize {
        (16 + self.warps * 2 * self.keys) * (self.d * dtype.size_in_bytes() + 16) + self.warps * 16 * 2 * 4
    }
}

#[cfg(test)]
mod tests;
