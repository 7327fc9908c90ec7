//! What computes logits, behind one trait: our own decoder, and in tests a model small enough to check by hand.

#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
pub(crate) mod late;
mod native;

use std::time::Duration;

use selfplay_model::ops::draw::{Drawn, RowDraw};
use selfplay_model::{PageCopy, PagedRow};

pub use native::NativeBackend;
pub use selfplay_model::decoder::FedToken;

use crate::{Capacity, SampleError};

/// One forward pass over new tokens.
#[derive(Clone, Copy, Debug)]
pub struct BackendStep<'a> {
    /// The new tokens \[t], row after row.
    pub ids: &'a [u32],
    /// Of `ids`, those that the step begun before this one draws and nobody has read yet; there are none in [`Backend::run`].
    pub fed: &'a [FedToken],
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
/// A row's logits don't depend on the content of other rows' pages. Whether their bits depend on the
/// other rows of the batch and on how the prompt is cut into chunks is the answer of [`Backend::is_batch_invariant`].
pub trait Backend: Send {
    /// Logits per row.
    fn vocab_size(&self) -> usize;

    /// Positions of the model's context.
    fn max_positions(&self) -> usize;

    /// Memory of one page over all layers.
    fn page_bytes(&self) -> usize;

    /// The batch and cache that it can sample with; a GPU's follow from the memory that is free now.
    fn capacity(&self) -> Result<Capacity, SampleError>;

    /// Whether the bits of a row's logits are independent of the other rows of the batch and of how its prompt is cut into
    /// chunks.
    ///
    /// # Errors
    /// A device that this build has no kernels for.
    fn is_batch_invariant(&self) -> Result<bool, SampleError>;

    /// Time spent so far in waiting for a device; the rest of a step is time of the host.
    fn waited(&self) -> Duration {
        Duration::ZERO
    }

    /// Makes pages numbered from 0, or leaves as many or more as there are; what was cached before may be lost.
    fn reserve_pages(&mut self, pages: usize) -> Result<(), SampleError>;

    /// Makes `pages` pages or more out of fewer, also beside a step that was begun; what those that there were hold stays. `most` is
    /// what will ever be asked for. Returns how many there are now: fewer than `pages` where there is no memory for them.
    ///
    /// # Errors
    /// The error of the device.
    fn grow_pages(&mut self, pages: usize, most: usize) -> Result<usize, SampleError>;

    /// Gives the memory of all pages back until the next call of [`Backend::reserve_pages`] or [`Backend::grow_pages`].
    ///
    /// # Errors
    /// The error of the device.
    fn release_pages(&mut self) -> Result<(), SampleError> {
        Ok(())
    }

    /// Copies pages' keys and values, one after the other.
    fn copy_pages(&mut self, copies: &[PageCopy]) -> Result<(), SampleError>;

    /// Runs a step and calls `read` with the logits \[n, vocab] of its `logit_rows`, once; `read` is not called where there
    /// are none. A row may attend to what an earlier row of the same step writes: in every layer the keys and values of all
    /// rows are written before any are read.
    fn run(&mut self, step: BackendStep<'_>, read: &mut LogitsReader<'_>) -> Result<(), SampleError>;

    /// Whether [`Backend::begin`] may begin a step: where it never does, nobody makes draws for it.
    fn can_begin(&self) -> bool {
        true
    }

    /// Begins a step and draws the tokens on the device that holds the logits, without waiting for it: [`Backend::finish`]
    /// gives them. Each of `draws` has its own rule; [`RowDraw::row`] is an index into `logit_rows`. Steps, and copies of
    /// pages, are done in the order of the calls. Returns false, with nothing begun, where the backend does not draw.
    ///
    /// # Errors
    /// As [`Backend::run`].
    fn begin(&mut self, _step: BackendStep<'_>, _draws: &[RowDraw]) -> Result<bool, SampleError> {
        Ok(false)
    }

    /// The tokens of the oldest step that was begun and not finished, in the order of its draws; waits for the device.
    ///
    /// # Errors
    /// No such step; the error of the device.
    fn finish(&mut self) -> Result<DrawnTokens, SampleError> {
        Err(SampleError::internal("a step was finished that was not begun"))
    }

    /// Drops the tokens of all steps that were begun and not finished.
    fn discard(&mut self) {}

    /// Whether the next step is to be begun before the last one is finished, so that the device has no gap between them.
    fn runs_ahead(&self) -> bool {
        true
    }

    /// How long the device has had nothing to do between one step and the next so far; `None` where there is no device.
    fn device_idle(&self) -> Option<Duration> {
        None
    }
}
