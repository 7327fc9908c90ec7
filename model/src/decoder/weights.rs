//! What every part of a decoder computes with: its parameters, and how sums run.

use candle_core::{Result, Tensor};

use crate::gradients::Gradients;
use crate::linear::lora::dropout::StepDropout;
use crate::linear::{Linear, Pass, SumOrder};
use crate::ops::elementwise;
use crate::ops::rms_norm::RmsNorm;
use crate::parameters::{ParameterId, Parameters};

/// A decoder's parameters with the arithmetic that its parts share.
#[derive(Clone, Copy)]
pub(super) struct DecoderWeights<'a> {
    pub(super) parameters: &'a Parameters,
    pub(super) norm: RmsNorm,
    pub(super) sums: SumOrder,
    /// What adapters leave out, in a training step.
    pub(super) dropout: Option<&'a StepDropout>,
}

impl<'a> DecoderWeights<'a> {
    pub(super) fn value(&self, id: ParameterId) -> &'a Tensor {
        &self.parameters.get(id).value
    }

    /// The product of a map \[t, inputs] → \[t, outputs].
    pub(super) fn forward(&self, linear: &Linear, x: &Tensor) -> Result<Tensor> {
        linear.forward_in(self.parameters, x, Pass { sums: self.sums, dropout: self.dropout })
    }

    /// dx of [`DecoderWeights::forward`]; adds the map's own gradients.
    pub(super) fn backward(
        &self,
        linear: &Linear,
        x: &Tensor,
        dy: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        linear.backward_in(self.parameters, x, dy, gradients, self.dropout)
    }

    /// The norm of each row of x \[t, h].
    pub(super) fn normed(&self, x: &Tensor, weight: ParameterId) -> Result<Tensor> {
        self.norm.forward(x, self.value(weight))
    }

    /// The backward of [`DecoderWeights::normed`]: adds dx to `dx_sum`.
    pub(super) fn norm_backward(
        &self,
        x: &Tensor,
        weight: ParameterId,
        dy: &Tensor,
        gradients: &Gradients,
        dx_sum: &Tensor,
    ) -> Result<()> {
        self.norm.backward(x, self.value(weight), dy, gradients.get(weight), dx_sum)
    }

    /// What a branch reads of the stream x \[t, h]: its norm, or where the family has none before the branch x itself.
    pub(super) fn branch_input(&self, x: &Tensor, norm: Option<ParameterId>) -> Result<Tensor> {
        norm.map_or_else(|| Ok(x.clone()), |norm| self.normed(x, norm))
    }

    /// The backward of [`DecoderWeights::branch_input`]: adds dx to `dx_sum`.
    pub(super) fn branch_input_backward(
        &self,
        x: &Tensor,
        norm: Option<ParameterId>,
        dy: &Tensor,
        gradients: &Gradients,
        dx_sum: &Tensor,
    ) -> Result<()> {
        match norm {
            Some(norm) => self.norm_backward(x, norm, dy, gradients, dx_sum),
            None => elementwise::add_assign(dx_sum, dy),
        }
    }

    /// A branch's output, after its norm where the family has one, added to the stream \[t, h].
    pub(super) fn join(
        &self,
        stream: &Tensor,
        branch: &Tensor,
        post_norm: Option<ParameterId>,
    ) -> Result<Tensor> {
        match post_norm {
            Some(norm) => {
                let normed = self.normed(branch, norm)?;
                elementwise::add_assign(&normed, stream)?;
                Ok(normed)
            }
            None => elementwise::sum(stream, branch),
        }
    }

    /// [`DecoderWeights::join`] and what the next branch reads of its result, which a GPU makes in one pass where no norm comes
    /// between.
    pub(super) fn join_and_norm(
        &self,
        stream: &Tensor,
        branch: &Tensor,
        post_norm: Option<ParameterId>,
        norm: Option<ParameterId>,
    ) -> Result<(Tensor, Tensor)> {
        if let (None, Some(norm)) = (post_norm, norm) {
            return self.norm.add_forward(stream, branch, self.value(norm));
        }
        let joined = self.join(stream, branch, post_norm)?;
        let normed = self.branch_input(&joined, norm)?;
        Ok((joined, normed))
    }

    /// The gradient of a branch before its post-norm; the stream's own where there is none.
    pub(super) fn join_backward(
        &self,
        before: Option<Tensor>,
        post_norm: Option<ParameterId>,
        d_stream: &Tensor,
        gradients: &Gradients,
    ) -> Result<Tensor> {
        match (before, post_norm) {
            (Some(before), Some(norm)) => {
                let d = before.zeros_like()?;
                self.norm_backward(&before, norm, d_stream, gradients, &d)?;
                Ok(d)
            }
            _ => Ok(d_stream.clone()),
        }
    }
}
