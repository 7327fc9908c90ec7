//! The backward over a packed batch, block by block, written out by hand.
//!
//! The gradient of the residual stream is one tensor that runs from the last block to the embedding; each part of
//! a block adds to it in place. Parameters' gradients are summed straight into [`Gradients`].

use candle_core::{Result, Tensor, bail};

use super::attention::{PackedSequences, Sequences};
use super::segments::{DecoderPass, Segment};
use super::weights::DecoderWeights;
use super::{Decoder, Tape};
use crate::gradients::Gradients;
use crate::ops::embedding::embedding_backward;
use crate::profile;

impl Decoder {
    /// Adds the gradients of Σ `d_hidden` ∘ hidden to `gradients`, given what the forward kept.
    ///
    /// # Errors
    /// `d_hidden` is not \[t, h] on the decoder's device.
    pub fn backward(&self, tape: Tape, d_hidden: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let _stage = profile::stage("backward");
        let gradients = &*gradients;
        let visit = self.visit(DecoderPass::Backward { is_last: gradients.is_last() })?;
        let Tape { batch, mut blocks, last, dropout, .. } = tape;
        let weights = DecoderWeights { dropout: dropout.as_ref(), ..self.weights() };
        let packed = PackedSequences::new(&batch, self.rotary(batch.context())?);
        let d_stream = last.zeros_like()?;
        weights.norm_backward(&last, self.final_norm, d_hidden, gradients, &d_stream)?;
        drop(last);
        for (layer, block) in self.blocks.iter().enumerate().rev() {
            let Some(saved) = blocks.pop() else { bail!("the tape holds fewer blocks than the decoder") };
            visit.within(Segment::Block(layer), || {
                let activations = {
                    let _stage = profile::stage("recomputation");
                    block.activations(&weights, saved, &Sequences::Packed(&packed))?
                };
                block.backward(&weights, activations, &d_stream, &packed, gradients)
            })?;
        }
        visit.within(Segment::Embedding, || match gradients.get(self.embedding) {
            Some(d_table) => {
                embedding_backward(&d_stream, batch.ids(), self.architecture.embedding_scale, d_table)
            }
            None => Ok(()),
        })
    }
}
