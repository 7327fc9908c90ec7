//! The parts of a decoder that a pass visits one after the other, and who is told of it.
//!
//! Where other ranks keep a part's weights, or are to get its gradient, a pass over the decoder must bring the weights before it
//! computes with them, and may give the gradient away as soon as it is complete. The decoder says where it is, and nothing
//! else here knows why: without hooks a visit is nothing.
//!
//! | pass | visits |
//! |---|---|
//! | [`DecoderPass::Forward`] | the embedding, the blocks from the first to the last |
//! | [`DecoderPass::Head`] | the head |
//! | [`DecoderPass::Backward`] | the blocks from the last to the first, the embedding |

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};

use super::Decoder;
use super::block::Block;
use crate::error::ModelError;
use crate::linear::Linear;
use crate::parameters::ParameterId;

/// A part of a decoder whose weights are used together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The table of embeddings, which a tied head has too.
    Embedding,
    /// One block, by its number.
    Block(usize),
    /// The output head.
    Head,
}

/// A pass over the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecoderPass {
    /// From token ids to hidden states.
    Forward,
    /// From hidden states to log-probs.
    Head {
        /// Whether it goes back to the hidden states' gradient, and adds to the head's.
        takes_gradients: bool,
    },
    /// From the hidden states' gradient to the embedding.
    Backward {
        /// Whether the gradients that it adds to are complete with it ([`Gradients::set_last`](crate::Gradients::set_last)).
        is_last: bool,
    },
}

/// Who is told where a pass is.
pub trait SegmentHooks: Send + Sync {
    /// A pass begins.
    ///
    /// # Errors
    /// Another rank is gone.
    fn begin(&self, pass: DecoderPass) -> Result<()>;

    /// The pass is about to compute with the weights of `segment` and, where it takes gradients, to add to them.
    ///
    /// # Errors
    /// The weights can't be brought: another rank is gone, or the device is out of memory.
    fn before(&self, segment: Segment) -> Result<()>;

    /// It is done with them.
    ///
    /// # Errors
    /// As [`SegmentHooks::before`].
    fn after(&self, segment: Segment) -> Result<()>;

    /// The pass has ended, maybe early by an error.
    fn end(&self);

    /// Whether the parameter's numbers, with all their digits, are to be asked for ([`SegmentHooks::fetch`]): they are not, or
    /// not all, in this decoder's memory.
    fn is_elsewhere(&self, _parameter: ParameterId) -> bool {
        false
    }

    /// All numbers of such a parameter with all their digits, in the host's memory.
    ///
    /// # Errors
    /// Another rank is gone; a parameter that is not elsewhere.
    fn fetch(&self, _parameter: ParameterId) -> Result<Tensor> {
        bail!("these weights are nowhere else")
    }

    /// Takes part in what others still compute with the weights or ask for, until none of them does.
    ///
    /// # Errors
    /// Another rank is gone.
    fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// A pass that is under way.
pub(super) struct Visit<'a> {
    hooks: Option<&'a dyn SegmentHooks>,
}

impl Visit<'_> {
    pub(super) fn before(&self, segment: Segment) -> Result<()> {
        self.hooks.map_or(Ok(()), |hooks| hooks.before(segment))
    }

    pub(super) fn after(&self, segment: Segment) -> Result<()> {
        self.hooks.map_or(Ok(()), |hooks| hooks.after(segment))
    }

    /// Runs `work` with the weights of `segment` there.
    pub(super) fn within<T>(&self, segment: Segment, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.before(segment)?;
        let done = work()?;
        self.after(segment)?;
        Ok(done)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if let Some(hooks) = self.hooks {
            hooks.end();
        }
    }
}

impl Decoder {
    /// Has `hooks` told of every pass from now on, in the place of those before; `None` of no pass.
    pub fn set_segment_hooks(&mut self, hooks: Option<Arc<dyn SegmentHooks>>) {
        self.hooks = hooks;
    }

    /// Whether several ranks hold its weights, each its own ranges: it was loaded so ([`LoadOptions::share`](super::LoadOptions::share)), or
    /// a training has it so. Its passes and [`Decoder::save`] then need hooks that bring what others hold, and the others' part in that.
    pub fn is_divided(&self) -> bool {
        let is_elsewhere = |hooks: &Arc<dyn SegmentHooks>| hooks.is_elsewhere(self.embedding);
        self.parameters.has_held() || self.hooks.as_ref().is_some_and(is_elsewhere)
    }

    /// The end of a decoder that several ranks hold: takes part in what the others still compute with it or save of it, until no rank does.
    /// It computes nothing afterwards. Without hooks nothing is done.
    ///
    /// # Errors
    /// Another rank is gone.
    pub fn end_division(&mut self) -> std::result::Result<(), ModelError> {
        match self.hooks.take() {
            Some(hooks) => Ok(hooks.finish()?),
            None => Ok(()),
        }
    }

    /// Its segments, in the order of a forward pass.
    pub fn segments(&self) -> impl Iterator<Item = Segment> {
        let blocks = (0..self.blocks.len()).map(Segment::Block);
        std::iter::once(Segment::Embedding).chain(blocks).chain(std::iter::once(Segment::Head))
    }

    /// The parameters of a segment: a block's own, the table, or the head's where it is not tied; the adapters' among them.
    pub fn segment_parameters(&self, segment: Segment) -> Vec<ParameterId> {
        match segment {
            Segment::Embedding => vec![self.embedding],
            Segment::Block(number) => self.blocks.get(number).map_or_else(Vec::new, Block::parameters),
            Segment::Head => self.head.iter().flat_map(Linear::parameters).collect(),
        }
    }

    /// Whether the head's products are with the table of embeddings.
    pub fn has_tied_head(&self) -> bool {
        self.architecture.tie_embeddings && self.head.is_some()
    }

    pub(super) fn visit(&self, pass: DecoderPass) -> Result<Visit<'_>> {
        let hooks = self.hooks.as_deref();
        if let Some(hooks) = hooks {
            hooks.begin(pass)?;
        }
        Ok(Visit { hooks })
    }
}
