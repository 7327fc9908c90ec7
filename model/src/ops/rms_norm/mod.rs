//! Root-mean-square norm: y = x / √(mean x² + ε) · w, or · (1 + w) in Gemma's form.
//!
//! Zhang and Sennrich, arXiv 1910.07467. Nothing but x is kept for the backward: its scale is computed again.

mod cpu;
mod gpu;

use candle_core::{Result, Tensor};

use super::elementwise;
use crate::cpu::by_dtype;
use crate::gpu::Gpu;
use crate::profile::{self, OperationCost};

/// The constants of a norm.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// ε, inside the root.
    pub epsilon: f64,
    /// Gemma's form: the weight is 1 + w.
    pub offset: bool,
}

/// Heads that stand side by side in every row: columns `first..first + count · d`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadColumns {
    /// The first head's first column.
    pub first: usize,
    /// Number of heads.
    pub count: usize,
}

impl HeadColumns {
    /// Of going over these columns of `x` so many times.
    fn cost(self, x: &Tensor, weight: &Tensor, times: usize) -> OperationCost {
        let rows = x.dim(0).unwrap_or(0);
        let numbers = times * rows * self.count * weight.elem_count();
        OperationCost { bytes: (numbers * x.dtype().size_in_bytes()) as f64, flops: 0.0 }
    }

    /// The columns of all heads of size `d`.
    fn range(self, d: usize) -> std::ops::Range<usize> {
        self.first..self.first + self.count * d
    }
}

impl RmsNorm {
    /// Norm of each row of x \[.., h] with `weight` \[h].
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn forward(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let _operation = profile::operation("rms_norm", || OperationCost::moving(&[x, x]));
        if let Some(gpu) = Gpu::of(x)? {
            return Ok(self.forward_gpu(&gpu, x, None, weight)?.1);
        }
        by_dtype!(x.dtype(), T => self.forward_cpu::<T>(x, weight))
    }

    /// x + delta and its norm, both \[.., h], in one pass on a GPU.
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn add_forward(self, x: &Tensor, delta: &Tensor, weight: &Tensor) -> Result<(Tensor, Tensor)> {
        let _operation = profile::operation("add and rms_norm", || OperationCost::moving(&[x, delta, x, x]));
        if let Some(gpu) = Gpu::of(x)? {
            return self.forward_gpu(&gpu, x, Some(delta), weight);
        }
        let sum = elementwise::sum(x, delta)?;
        let normed = self.forward(&sum, weight)?;
        Ok((sum, normed))
    }

    /// The backward of [`RmsNorm::forward`]: adds dx \[.., h] to `dx_sum`, and to `d_weight` \[h] where it is given.
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn backward(
        self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        d_weight: Option<&Tensor>,
        dx_sum: &Tensor,
    ) -> Result<()> {
        let _operation =
            profile::operation("rms_norm backward", || OperationCost::moving(&[x, dy, dx_sum, dx_sum]));
        if let Some(gpu) = Gpu::of(x)? {
            return self.backward_gpu(&gpu, x, weight, dy, d_weight, dx_sum);
        }
        by_dtype!(x.dtype(), T => self.backward_cpu::<T>(x, weight, dy, d_weight, dx_sum))
    }

    /// Norms each head of every row of `x` \[t, width] in place (Qwen 3's q and k norm), `weight` \[d].
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub(crate) fn heads_forward(self, x: &Tensor, heads: HeadColumns, weight: &Tensor) -> Result<()> {
        let _operation = profile::operation("norm of heads", || heads.cost(x, weight, 2));
        if let Some(gpu) = Gpu::of(x)? {
            return self.heads_forward_gpu(&gpu, x, heads, weight);
        }
        by_dtype!(x.dtype(), T => self.heads_forward_cpu::<T>(x, heads, weight))
    }

    /// The backward of [`RmsNorm::heads_forward`]: `x` as it was before, `dy` overwritten with dx.
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub(crate) fn heads_backward(
        self,
        x: &Tensor,
        dy: &Tensor,
        heads: HeadColumns,
        weight: &Tensor,
        d_weight: Option<&Tensor>,
    ) -> Result<()> {
        let _operation = profile::operation("norm of heads, backward", || heads.cost(x, weight, 3));
        if let Some(gpu) = Gpu::of(x)? {
            return self.heads_backward_gpu(&gpu, x, dy, heads, weight, d_weight);
        }
        by_dtype!(x.dtype(), T => self.heads_backward_cpu::<T>(x, dy, heads, weight, d_weight))
    }
}
