//! The backward over a packed batch, block by block, written out by hand.
//!
//! The gradient of the residual stream is one tensor that runs from the last block to the embedding; each part of
//! a block adds to it in place. Parameters' gradients are summed straight into [`Gradients`].

use candle_core::{Result, Tensor, bail};

use super::attention::{PackedSequences, Sequences};
use super::forward::SavedBlock;
use super::weights::DecoderWeights;
use super::{Decoder, Tape};
use crate::ops::embedding::embedding_backward;
use crate::parameters::Gradients;

impl Decoder {
    /// Adds the gradients of Σ `d_hidden` ∘ hidden to `gradients`, given what the forward kept.
    ///
    /// # Errors
    /// `d_hidden` is not \[t, h] on the decoder's device.
    pub fn backward(&self, tape: Tape, d_hidden: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Tape { batch, mut blocks, last, dropout, .. } = tape;
        let weights = DecoderWeights { dropout: dropout.as_ref(), ..self.weights() };
        let packed = PackedSequences::new(&batch, self.rotary(batch.context())?);
        let d_stream = last.zeros_like()?;
        weights.norm_backward(&last, self.final_norm, d_hidden, gradients, &d_stream)?;
        drop(last);
        for block in self.blocks.iter().rev() {
            let activations = match blocks.pop() {
                Some(SavedBlock::All(activations)) => Some(*activations),
                Some(SavedBlock::Input(input)) => {
                    block.forward(&weights, &input, &Sequences::Packed(&packed), None, true)?.activations
                }
                None => None,
            };
            let Some(activations) = activations else {
                bail!("the tape holds fewer blocks than the decoder")
            };
            block.backward(&weights, activations, &d_stream, &packed, gradients)?;
        }
        if let Some(d_table) = gradients.get(self.embedding) {
            embedding_backward(&d_stream, batch.ids(), self.architecture.embedding_scale, d_table)?;
        }
        Ok(())
    }
}
