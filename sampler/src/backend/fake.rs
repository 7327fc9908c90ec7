//! A tiny double of model and tokenizer for tests.
//!
//! The model caches the token ids themselves, page by page, and computes a position's logits from a hash of all the
//! ids that the row's pages hold up to it. A page that is shared wrongly, not copied, or overwritten changes the
//! hash, and with it the candidate. In every step it also checks that each row's pages hold what was written for exactly
//! these positions, that they hold the very tokens of the candidate that a row draws for, and that no page is written
//! by two rows.

use std::collections::{HashMap, HashSet};

use selfplay_model::ops::draw::RowDraw;
use selfplay_model::{ModelError, PAGE_TOKENS, PageCopy, PagedRow};

use crate::{Backend, BackendStep, Capacity, LogitsReader, SampleError, TextDecoder};

/// One token per byte.
pub(crate) struct FakeText;

impl FakeText {
    /// Written `<eos>`, shown in no text.
    pub(crate) const EOS: u32 = 3;
}

impl TextDecoder for FakeText {
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let shown = ids.iter().filter(|&&id| id != Self::EOS);
        let bytes: Vec<u8> = shown.map(|&id| u8::try_from(id).expect("the fake has 256 tokens")).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn special_id(&self, text: &str) -> Option<u32> {
        (text == "<eos>").then_some(Self::EOS)
    }
}

/// The contents of one position of a page: like keys and values, they depend on a token, its position and its prefix.
#[derive(Clone, Copy, Debug, Default)]
struct CachedToken {
    id: u32,
    position: usize,
    /// Hash of all ids up to this one; 0 where nothing was written.
    hash: u64,
}

/// A prompt's stream of random numbers, which distinguishes prompts.
type Stream = ([u32; 2], [u32; 2]);

/// A model whose page is one MiB, so that `cache_mib` counts its pages.
pub(crate) struct FakeModel {
    pub vocab_size: usize,
    pub max_positions: usize,
    /// Logits of this last token of a context are NaN.
    pub broken_after: Option<u32>,
    /// Pages that there is memory for, where they grow.
    pub memory_pages: usize,
    batch_invariant: bool,
    pages: Vec<[CachedToken; PAGE_TOKENS]>,
    /// Of the step to come, the draws by row.
    draws: Vec<RowDraw>,
    prompts: HashMap<Stream, Vec<u32>>,
    /// The tokens of its response that each candidate was fed.
    fed: HashMap<(Stream, u32), Vec<u32>>,
    /// Whether a step's logits were read by the caller, whose draws are not told.
    has_untold: bool,
}

const FIRST_HASH: u64 = 17;

fn mix(hash: u64, id: u64) -> u64 {
    let mixed = (hash ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

impl FakeModel {
    pub(crate) fn new(vocab_size: usize, max_positions: usize) -> Self {
        Self {
            vocab_size,
            max_positions,
            broken_after: None,
            memory_pages: usize::MAX,
            batch_invariant: true,
            pages: Vec::new(),
            draws: Vec::new(),
            prompts: HashMap::new(),
            fed: HashMap::new(),
            has_untold: false,
        }
    }

    /// The answer of [`Backend::is_batch_invariant`]; its rows are independent in any case.
    pub(crate) fn with_batch_invariance(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// Logits [vocab] after a context, between -3 and 3.
    pub(crate) fn logits(&self, context: impl Iterator<Item = u32>) -> Vec<f32> {
        let (mut hash, mut last) = (FIRST_HASH, 0);
        for id in context {
            hash = mix(hash, u64::from(id) + 1);
            last = id;
        }
        self.logits_after(hash, last)
    }

    fn logits_after(&self, hash: u64, last: u32) -> Vec<f32> {
        let logit = |id: u64| (mix(hash, id + 1_000_003) >> 40) as f32 / (1u64 << 24) as f32 * 6.0 - 3.0;
        let mut logits: Vec<f32> = (0..self.vocab_size as u64).map(logit).collect();
        if self.broken_after == Some(last) {
            logits[0] = f32::NAN;
        }
        logits
    }

    fn place(&self, row: &PagedRow<'_>, position: usize) -> CachedToken {
        self.pages[row.pages[position / PAGE_TOKENS] as usize][position % PAGE_TOKENS]
    }

    /// The ids that a row's pages hold; each must have been written for its position after these very ids.
    fn held(&self, row: &PagedRow<'_>) -> Vec<u32> {
        let mut hash = FIRST_HASH;
        let check = |position: usize| {
            let place = self.place(row, position);
            hash = mix(hash, u64::from(place.id) + 1);
            assert_eq!(
                (place.position, place.hash),
                (position, hash),
                "a page does not hold its row's prefix"
            );
            place.id
        };
        (0..row.context + row.new_tokens).map(check).collect()
    }

    /// Checks that a row which draws holds its prompt, and all of the response that was drawn before.
    fn check_identity(&mut self, held: &[u32], draw: &RowDraw) {
        let stream = (draw.key, draw.tag);
        if draw.step == 0 {
            let before = self.prompts.insert(stream, held.to_vec());
            assert!(before.is_none_or(|before| before == held), "a prompt has changed");
            return;
        }
        let (prompt, response) = held.split_at(held.len() - draw.step as usize);
        let before = self.prompts.entry(stream).or_insert_with(|| prompt.to_vec());
        assert_eq!(before, prompt, "a prompt has changed");
        let fed = self.fed.entry((stream, draw.sample)).or_default();
        assert!(response.starts_with(fed), "a row holds another candidate's tokens");
        // Of steps whose logits are read nothing is told.
        let is_next = fed.len() + 1 == response.len();
        assert!(is_next || self.has_untold, "a token of a response was drawn twice, or never fed");
        *fed = response.to_vec();
    }
}

impl Backend for FakeModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn page_bytes(&self) -> usize {
        1 << 20
    }

    fn capacity(&self) -> Result<Capacity, SampleError> {
        Ok(Capacity::CPU)
    }

    fn is_batch_invariant(&self) -> Result<bool, SampleError> {
        Ok(self.batch_invariant)
    }

    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError> {
        self.pages = vec![[CachedToken::default(); PAGE_TOKENS]; pages];
        self.prompts.clear();
        self.fed.clear();
        self.has_untold = false;
        Ok(())
    }

    fn grow_pages(&mut self, pages: usize, most: usize) -> Result<usize, SampleError> {
        assert!(pages > self.pages.len() && pages <= most, "{pages} pages of {most}");
        if pages <= self.memory_pages {
            self.pages.resize(pages, [CachedToken::default(); PAGE_TOKENS]);
        }
        Ok(self.pages.len())
    }

    fn release_pages(&mut self) -> Result<(), SampleError> {
        self.reserve_pages(0)
    }

    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), SampleError> {
        copies.iter().for_each(|copy| self.pages[copy.to as usize] = self.pages[copy.from as usize]);
        Ok(())
    }

    fn run(&mut self, step: BackendStep<'_>, read: &mut LogitsReader<'_>) -> Result<(), SampleError> {
        let BackendStep { ids, fed, rows, logit_rows } = step;
        assert_eq!(fed, [], "all tokens are known here");
        // All writes go before all reads, so that a page written by two rows shows.
        let (mut places, mut written, mut next) = (HashMap::new(), HashSet::new(), 0);
        for (number, row) in rows.iter().enumerate() {
            assert!(row.new_tokens > 0, "a row without a token");
            let end = row.context + row.new_tokens;
            let mut hash = match row.context {
                0 => FIRST_HASH,
                context => self.place(row, context - 1).hash,
            };
            for &page in &row.pages[row.context / PAGE_TOKENS..end.div_ceil(PAGE_TOKENS)] {
                assert!(written.insert(page), "page {page} is written by two rows");
            }
            for position in row.context..end {
                let id = ids[next];
                hash = mix(hash, u64::from(id) + 1);
                let page = row.pages[position / PAGE_TOKENS] as usize;
                self.pages[page][position % PAGE_TOKENS] = CachedToken { id, position, hash };
                places.insert(next, (number, position + 1));
                next += 1;
            }
        }
        assert_eq!(next, ids.len());
        let held: Vec<Vec<u32>> = rows.iter().map(|row| self.held(row)).collect();
        let draws = std::mem::take(&mut self.draws);
        self.has_untold |= draws.is_empty() && !logit_rows.is_empty();
        for draw in &draws {
            self.check_identity(&held[places[&logit_rows[draw.row as usize]].0], draw);
        }
        let logits_at = |place: &usize| {
            let (row, length) = places[place];
            self.logits(held[row][..length].iter().copied())
        };
        let logits: Vec<f32> = logit_rows.iter().flat_map(logits_at).collect();
        if !logit_rows.is_empty() {
            read(&logits);
        }
        Ok(())
    }

    /// Draws nothing, but records the draws for the checks in [`Backend::run`].
    fn begin(&mut self, _step: BackendStep<'_>, draws: &[RowDraw]) -> Result<bool, SampleError> {
        self.draws = draws.to_vec();
        Ok(false)
    }
}
