//! What computes logits, behind one trait: our own decoder, and in tests a model small enough to check by hand.

#[cfg(test)]
pub(crate) mod fake;
mod native;

use std::time::Duration;

use selfplay_model::PagedRow;
use selfplay_model::ops::draw::{Drawn, RowDraw};

pub use native::NativeBackend;

use crate::{Capacity, SampleError};

/// One forward pass over new tokens.
#[derive(Clone, Copy, Debug)]
pub struct BackendStep<'a> {
    /// The new tokens \[t], row after row.
    pub ids: &'a [u32],
    /// The rows that they belong to.
    pub rows: &'a [PagedRow<'a>],
    /// The tokens whose logits are wanted \[n]: indices into `ids`, ascending.
    pub logit_rows: &'a [usize],
}

/// Reads logits \[n, vocab].
pub type LogitsReader<'a> = dyn FnMut(&[f32]) + Send + 'a;

/// The tokens that a device drew, in the order of their [`RowDraw`]s; `None` where the logits are not finite.
pub type DrawnTokens = Vec<Option<Drawn>>;

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

    /// Runs a step and calls `read` with the logits \[n, vocab] of its `logit_rows`, once; `read` is not called where there
    /// are none. A row may attend to what an earlier row of the same step writes: in every layer the keys and values of all
    /// rows are written before any are read.
    fn run(&mut self, step: BackendStep<'_>, read: &mut LogitsReader<'_>) -> Result<(), SampleError>;

    /// As [`Backend::run`], but draws the tokens on the device that holds the logits. Each of `draws` has its own rule;
    /// [`RowDraw::row`] is an index into `logit_rows`. Returns `None`, with nothing run, where the backend does not draw.
    fn run_and_draw(
        &mut self,
        _step: BackendStep<'_>,
        _draws: &[RowDraw],
    ) -> Result<Option<DrawnTokens>, SampleError> {
        Ok(None)
    }
}
