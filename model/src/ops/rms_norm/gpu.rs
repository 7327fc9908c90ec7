//! The GPU form of [`RmsNorm`] (`gpu/cuda/norm.cu`).

use candle_core::{DType, Result, Tensor};

use super::RmsNorm;
use crate::gpu::{Argument, Gpu, all_of, int, pointer, pointer_or_null};
use crate::ops::elementwise::sum_partials;
use crate::ops::rows::row_threads;

impl RmsNorm {
    /// The sum (x itself without `delta`) and its norm.
    pub(super) fn forward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        delta: Option<&Tensor>,
        weight: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        all_of(x.dtype(), &[weight, delta.unwrap_or(x)])?;
        let h = weight.elem_count();
        let normed = gpu.unwritten(x.shape(), x.dtype())?;
        let sum = delta.map(|_| gpu.unwritten(x.shape(), x.dtype())).transpose()?;
        let arguments = [
            pointer(&normed)?,
            pointer_or_null(sum.as_ref())?,
            pointer(x)?,
            pointer_or_null(delta)?,
            pointer(weight)?,
            int(h)?,
            Argument::F32(self.epsilon as f32),
            self.offset_argument(),
        ];
        gpu.launch("rms_norm", x.dtype(), [x.elem_count() / h.max(1), 1, 1], row_threads(h), 0, &arguments)?;
        Ok((sum.unwrap_or_else(|| x.clone()), normed))
    }

    fn offset_argument(self) -> Argument {
        Argument::F32(if self.offset { 1.0 } else { 0.0 })
    }

    pub(super) fn backward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        d_weight: Option<&Tensor>,
        dx_sum: &Tensor,
    ) -> Result<()> {
        all_of(x.dtype(), &[weight, dy, dx_sum])?;
        /// Blocks at most: some for each multiprocessor, and few enough partial sums.
        const BLOCKS: usize = 1024;
        let h = weight.elem_count();
        let rows = x.elem_count() / h.max(1);
        let rows_per_block = rows.div_ceil(BLOCKS).max(1);
        let blocks = rows.div_ceil(rows_per_block);
        let partial = d_weight.map(|_| gpu.unwritten((blocks.max(1), h), DType::F32)).transpose()?;
        let arguments = [
            pointer(dx_sum)?,
            pointer_or_null(partial.as_ref())?,
            pointer(x)?,
            pointer(weight)?,
            pointer(dy)?,
            int(rows)?,
            int(rows_per_block)?,
            int(h)?,
            Argument::F32(self.epsilon as f32),
            self.offset_argument(),
        ];
        gpu.launch("rms_norm_backward", x.dtype(), [blocks, 1, 1], row_threads(h), h * 4, &arguments)?;
        match (d_weight, partial) {
            (Some(d_weight), Some(partial)) => sum_partials(gpu, d_weight, &partial, blocks),
            _ => Ok(()),
        }
    }

    pub(super) fn heads_forward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        first: usize,
        heads: usize,
        weight: &Tensor,
    ) -> Result<()> {
        let ((rows, width), d) = (x.dims2()?, weight.elem_count());
        all_of(x.dtype(), &[weight])?;
        let arguments = [
            pointer(x)?,
            pointer(weight)?,
            int(rows)?,
            int(width)?,
            int(first)?,
            int(heads)?,
            int(d)?,
            Argument::F32(self.epsilon as f32),
            self.offset_argument(),
        ];
        gpu.launch("heads_norm", x.dtype(), [(rows * heads).div_ceil(4), 1, 1], 128, 0, &arguments)
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn heads_backward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        dy: &Tensor,
        first: usize,
        heads: usize,
        weight: &Tensor,
        d_weight: Option<&Tensor>,
    ) -> Result<()> {
        let ((rows, width), d) = (x.dims2()?, weight.elem_count());
        all_of(x.dtype(), &[weight, dy])?;
        let blocks = (rows * heads).min(1024);
        let partial = d_weight.map(|_| gpu.unwritten((blocks.max(1), d), DType::F32)).transpose()?;
        let arguments = [
            pointer(dy)?,
            pointer_or_null(partial.as_ref())?,
            pointer(x)?,
            pointer(weight)?,
            int(rows)?,
            int(width)?,
            int(first)?,
            int(heads)?,
            int(d)?,
            Argument::F32(self.epsilon as f32),
            self.offset_argument(),
        ];
        gpu.launch("heads_norm_backward", x.dtype(), [blocks, 1, 1], 32, d * 4, &arguments)?;
        match (d_weight, partial) {
            (Some(d_weight), Some(partial)) => sum_partials(gpu, d_weight, &partial, blocks),
            _ => Ok(()),
        }
    }
}
