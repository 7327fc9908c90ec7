//! The backward over a packed batch, block by block, written out by hand.
//!
//! The gradient of the residual stream is one tensor that runs from the last block to the embedding; each part of
//! a block adds to it in place. Parameters' gradients are summed straight into [`Gradients`].

use candle_core::{Result, Tensor};

use super::block::{Block, BlockActivations, BlockContext, Projection};
use super::forward::Kept;
use super::{Decoder, Tape, by_dtype};
use crate::kernels::embedding::embedding_backward;
use crate::kernels::gated_unit::{gated_unit, gated_unit_backward};
use crate::kernels::gemm::Element;
use crate::kernels::linear::{MapGradient, linear_backward};
use crate::kernels::rope::Direction;
use crate::parameters::{Gradients, ParameterId};

impl Decoder {
    /// Adds the gradients of Σ `d_hidden` ∘ hidden to `gradients`, given what the forward kept.
    ///
    /// # Errors
    /// `d_hidden` is not \[t, h] on the decoder's device.
    pub fn backward(&self, tape: Tape, d_hidden: &Tensor, gradients: &mut Gradients) -> Result<()> {
        by_dtype!(self, backward_of(tape, d_hidden, gradients))
    }

    fn backward_of<T: Element>(
        &self,
        tape: Tape,
        d_hidden: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let Tape { batch, mut blocks, last, .. } = tape;
        let context = BlockContext::new(&batch, self.rope(batch.context())?);
        let d_stream = last.zeros_like()?;
        self.norm_backward::<T>(&last, self.final_norm, d_hidden, gradients, &d_stream)?;
        drop(last);
        for layer in (0..self.blocks.len()).rev() {
            let activations = match blocks.pop() {
                Some(Kept::All(activations)) => *activations,
                Some(Kept::Input(input)) => self.block_forward::<T>(layer, &input, &context)?.activations,
                None => candle_core::bail!("the tape holds fewer blocks than the decoder"),
            };
            self.block_backward::<T>(layer, activations, &d_stream, &context, gradients)?;
        }
        if let Some(d_table) = gradients.get(self.embedding) {
            embedding_backward::<T>(&d_stream, batch.ids(), self.architecture.embedding_scale, d_table)?;
        }
        Ok(())
    }

    /// Turns `d_stream` from the gradient of the block's output into that of its input.
    fn block_backward<T: Element>(
        &self,
        layer: usize,
        activations: BlockActivations,
        d_stream: &Tensor,
        context: &BlockContext,
        gradients: &Gradients,
    ) -> Result<()> {
        let block = &self.blocks[layer];
        let BlockActivations {
            input,
            qkv_before_norm,
            qkv,
            attention,
            attention_projected,
            middle,
            gate_up,
            feed_forward,
        } = activations;

        let d_branch =
            self.post_norm_backward::<T>(feed_forward, block.feed_forward_post_norm, d_stream, gradients)?;
        let gated = gated_unit::<T>(&gate_up, self.architecture.activation)?;
        let d_gated = self.projection_backward::<T>(&gated, &d_branch, &block.down, gradients)?;
        drop((gated, d_branch));
        // From here on `gate_up` holds its own gradient.
        gated_unit_backward::<T>(&gate_up, &d_gated, self.architecture.activation)?;
        drop(d_gated);
        let normed = self.norm().forward::<T>(&middle, self.value(block.feed_forward_norm))?;
        let d_normed = self.projection_backward::<T>(&normed, &gate_up, &block.gate_up, gradients)?;
        drop((normed, gate_up));
        self.norm_backward::<T>(&middle, block.feed_forward_norm, &d_normed, gradients, d_stream)?;
        drop((middle, d_normed));

        let d_branch = self.post_norm_backward::<T>(
            attention_projected,
            block.attention_post_norm,
            d_stream,
            gradients,
        )?;
        let d_attention =
            self.projection_backward::<T>(&attention.output, &d_branch, &block.output, gradients)?;
        drop(d_branch);
        let d_qkv = block.attention.backward::<T>(&qkv, &attention, &d_attention, &context.places)?;
        drop((d_attention, attention, qkv));
        self.finish_qkv_backward::<T>(block, qkv_before_norm, &d_qkv, context, gradients)?;
        let normed = self.norm().forward::<T>(&input, self.value(block.attention_norm))?;
        let d_normed = self.projection_backward::<T>(&normed, &d_qkv, &block.qkv, gradients)?;
        drop((normed, d_qkv));
        self.norm_backward::<T>(&input, block.attention_norm, &d_normed, gradients, d_stream)
    }

    /// The gradient of a branch before its post-norm; the stream's own where there is none.
    fn post_norm_backward<T: Element>(
        &self,
        before: Option<Tensor>,
        norm: Option<ParameterId>,
        d_stream: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        match (before, norm) {
            (Some(before), Some(norm)) => {
                let d = before.zeros_like()?;
                self.norm_backward::<T>(&before, norm, d_stream, gradients, &d)?;
                Ok(d)
            }
            _ => Ok(d_stream.clone()),
        }
    }

    fn norm_backward<T: Element>(
        &self,
        x: &Tensor,
        weight: ParameterId,
        dy: &Tensor,
        gradients: &Gradients,
        dx_sum: &Tensor,
    ) -> Result<()> {
        self.norm().backward::<T>(x, self.value(weight), dy, gradients.get(weight), dx_sum)
    }

    fn projection_backward<T: Element>(
        &self,
        x: &Tensor,
        dy: &Tensor,
        projections: &[Projection],
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let slots: Vec<MapGradient> = projections
            .iter()
            .map(|p| MapGradient {
                weight: gradients.get(p.weight),
                bias: p.bias.and_then(|b| gradients.get(b)),
            })
            .collect();
        linear_backward::<T>(x, dy, &self.maps(projections), &slots)
    }

    /// Rope and per-head norms backwards, in place on `d_qkv`.
    fn finish_qkv_backward<T: Element>(
        &self,
        block: &Block,
        before: Option<Tensor>,
        d_qkv: &Tensor,
        context: &BlockContext,
        gradients: &Gradients,
    ) -> Result<()> {
        let a = &block.attention;
        context.rope.rotate::<T>(d_qkv, a.heads + a.kv_heads, &context.positions, Direction::Backward)?;
        let (Some(before), Some(q_norm), Some(k_norm)) = (before, block.q_norm, block.k_norm) else {
            return Ok(());
        };
        for (weight, first, heads) in [(q_norm, 0, a.heads), (k_norm, a.heads * a.head_dim, a.kv_heads)] {
            let (value, slot) = (self.value(weight), gradients.get(weight));
            self.norm().heads_backward::<T>(&before, d_qkv, first, heads, value, slot)?;
        }
        Ok(())
    }
}
