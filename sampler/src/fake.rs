//! A tiny double of model and tokenizer for tests.
//!
//! The model caches the token ids themselves, page by page, and computes a position's logits from a hash of all the
//! ids that the row's pages hold up to it. A page that is shared wrongly, not copied, or overwritten changes the
//! hash, and with it the candidate.

use selfplay_model::{ModelError, PAGE_TOKENS, PagedRow};

use crate::{Backend, SampleError, TextDecoder};

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

/// A model whose page is one MiB, so that `cache_mib` counts its pages.
pub(crate) struct FakeModel {
    pub vocab_size: usize,
    pub max_positions: usize,
    /// Logits of this last token of a context are NaN.
    pub broken_after: Option<u32>,
    pages: Vec<[u32; PAGE_TOKENS]>,
}

impl FakeModel {
    pub(crate) fn new(vocab_size: usize, max_positions: usize) -> Self {
        Self { vocab_size, max_positions, broken_after: None, pages: Vec::new() }
    }

    /// Logits [vocab] after a context, between -3 and 3.
    pub(crate) fn logits(&self, context: impl Iterator<Item = u32>) -> Vec<f32> {
        let mix = |hash: u64, id: u64| {
            let mixed = (hash ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
        };
        let (mut hash, mut last) = (17, 0);
        for id in context {
            hash = mix(hash, u64::from(id) + 1);
            last = id;
        }
        let logit = |id: u64| (mix(hash, id + 1_000_003) >> 40) as f32 / (1u64 << 24) as f32 * 6.0 - 3.0;
        let mut logits: Vec<f32> = (0..self.vocab_size as u64).map(logit).collect();
        if self.broken_after == Some(last) {
            logits[0] = f32::NAN;
        }
        logits
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

    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError> {
        self.pages = vec![[u32::MAX; PAGE_TOKENS]; pages];
        Ok(())
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), SampleError> {
        self.pages[to as usize] = self.pages[from as usize];
        Ok(())
    }

    fn run(
        &mut self,
        ids: &[u32],
        rows: &[PagedRow<'_>],
        logit_rows: &[usize],
        read: &mut (dyn FnMut(&[f32]) + Send),
    ) -> Result<(), SampleError> {
        // All writes go before all reads, so that a page written by two rows shows.
        let mut positions = Vec::new();
        for row in rows {
            for position in row.context..row.context + row.new_tokens {
                let page = row.pages[position / PAGE_TOKENS] as usize;
                self.pages[page][position % PAGE_TOKENS] = ids[positions.len()];
                positions.push((row, position));
            }
        }
        assert_eq!(positions.len(), ids.len());
        let mut logits = Vec::new();
        for &row in logit_rows {
            let (row, last) = positions[row];
            let cached = |position: usize| {
                self.pages[row.pages[position / PAGE_TOKENS] as usize][position % PAGE_TOKENS]
            };
            logits.extend(self.logits((0..=last).map(cached)));
        }
        if !logit_rows.is_empty() {
            read(&logits);
        }
        Ok(())
    }
}
