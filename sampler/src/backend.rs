//! What computes logits, behind one trait: our own decoder, and in tests a model small enough to check by hand.

#[cfg(test)]
pub(crate) mod fake;
mod native;

use std::time::Duration;

use selfplay_model::PagedRow;
use selfplay_model::ops::draw::{Drawn, RowDraw};

pub use native::NativeBackend;

use crate::{Capacity, SampleError};

/// A model with a cache in pages of [`selfplay_model::PAGE_TOKENS`] positions.
///
/// A row's logits don't depend on the content of other rows' pages. Whether their bits depend on how many rows run beside
/// it and how its prompt was cut into chunks, [`Backend::is_batch_invariant`] says.
pub trait Backend: Send {
    /// Logits per row.
    fn vocab_size(&self) -> usize;

    /// Positions that the model knows.
    fn max_positions(&self) -> usize;

    /// Memory of one page over all layers.
    fn page_bytes(&self) -> usize;

    /// How much it can sample at a time; where that depends on free memory, on what is free now.
    fn capacity(&self) -> Result<Capacity, SampleError>;

    /// Whether a row's logits are the same bits whatever rows run beside it and however its prompt was cut into chunks.
    ///
    /// # Errors
    /// A device that this build has no kernels for.
    fn is_batch_invariant(&self) -> Result<bool, SampleError>;

    /// How long it has waited for a device so far; what is left of a step is the host's own time.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// Makes room for pages numbered from 0; what was cached before may be lost.
    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError>;

    /// Copies a page's keys and values.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), SampleError>;

    /// Runs new tokens, `ids` \[t] row after row, and hands the logits \[n, vocab] at `logit_rows` \[n] (indices into
    /// `ids`, rising) to `read`, once; not at all when none are wanted. A row may read what an earlier row of the same
    /// step writes: in every layer all rows' keys and values are written before any are read.
    fn run(
        &mut self,
        ids: &[u32],
        rows: &[PagedRow<'_>],
        logit_rows: &[usize],
        read: &mut (dyn FnMut(&[f32]) + Send),
    ) -> Result<(), SampleError>;

    /// As [`Backend::run`], and draws the tokens where the logits are, each by its own rule, row n of `draws` being the n-th of
    /// `logit_rows`; a token is `None` where its logits are not finite. `None` of all, and nothing was run, where the
    /// backend can't.
    fn run_and_draw(
        &mut self,
        _ids: &[u32],
        _rows: &[PagedRow<'_>],
        _logit_rows: &[usize],
        _draws: &[RowDraw],
    ) -> Result<Option<Vec<Option<Drawn>>>, SampleError> {
        Ok(None)
    }
}
