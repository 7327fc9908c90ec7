//! The gated feed-forward part (SwiGLU, GeGLU): W_down (act(W_gate x) · W_up x).

use candle_core::{Result, Tensor};

use crate::architecture::Activation;
use crate::decoder::weights::DecoderWeights;
use crate::gradients::Gradients;
use crate::linear::Linear;
use crate::ops::gated_unit::{gated_unit, gated_unit_backward};

/// One block's gated feed-forward part.
pub(in crate::decoder) struct Gated {
    /// Gate and up side by side.
    pub(in crate::decoder) gate_up: Linear,
    pub(in crate::decoder) down: Linear,
    pub(in crate::decoder) activation: Activation,
}

/// The output \[n, h], and gate and up \[n, 2 i], which the backward needs, where they were asked for.
pub(in crate::decoder) struct GatedForward {
    pub(in crate::decoder) output: Tensor,
    pub(in crate::decoder) gate_up: Option<Tensor>,
}

impl Gated {
    /// From the normed stream \[n, h]; `keep` says whether a backward follows.
    pub(in crate::decoder) fn forward(
        &self,
        weights: &DecoderWeights,
        normed: Tensor,
        keep: bool,
    ) -> Result<GatedForward> {
        let gate_up = self.gate_up(weights, normed)?;
        let gated = gated_unit(&gate_up, self.activation)?;
        let gate_up = keep.then_some(gate_up);
        Ok(GatedForward { output: weights.forward(&self.down, &gated)?, gate_up })
    }

    /// Gate and up \[n, 2 i] of the normed stream \[n, h].
    pub(in crate::decoder) fn gate_up(&self, weights: &DecoderWeights, normed: Tensor) -> Result<Tensor> {
        weights.forward(&self.gate_up, &normed)
    }

    /// The gradient of the normed stream, given that of the output \[t, h]; `gate_up` is overwritten, and `normed` makes the
    /// normed stream again, when the rest of the memory is free.
    pub(in crate::decoder) fn backward(
        &self,
        weights: &DecoderWeights,
        gate_up: Tensor,
        normed: impl FnOnce() -> Result<Tensor>,
        d_output: Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        let gated = gated_unit(&gate_up, self.activation)?;
        let d_gated = weights.backward(&self.down, &gated, &d_output, gradients)?;
        drop((gated, d_output));
        // From here on `gate_up` holds its own gradient.
        gated_unit_backward(&gate_up, &d_gated, self.activation)?;
        drop(d_gated);
        weights.backward(&self.gate_up, &normed()?, &gate_up, gradients)
    }
}
