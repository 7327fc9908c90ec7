//! The GPU form of [`RmsNorm`] (`gpu/cuda/norm.cu`).

use candle_core::{DType, Result, Tensor};

use super::{HeadColumns, RmsNorm};
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

    /// What kernels take of a norm: ε, and what is added to a weight.
    pub(crate) fn constants(self) -> [Argument; 2] {
        [Argument::F32(self.epsilon as f32), self.offset_argument()]
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
        /// The launch bounds of the kernels that go over a row once.
        const MOST_THREADS: usize = 512;
        let (kernel, threads, shared) = match vectors_of_a_row(h, x.dtype()) {
            Some(n) if n <= MOST_THREADS => ("rms_norm_backward_1", n, 0),
            Some(n) if n <= 2 * MOST_THREADS => ("rms_norm_backward_2", n.div_ceil(2), 0),
            _ => ("rms_norm_backward", row_threads(h), h * 4),
        };
        let threads = threads.next_multiple_of(32);
        with_partial_sums(gpu, d_weight, (blocks, h), |partial| {
            let arguments = [
                pointer(dx_sum)?,
                partial,
                pointer(x)?,
                pointer(weight)?,
                pointer(dy)?,
                int(rows)?,
                int(rows_per_block)?,
                int(h)?,
                Argument::F32(self.epsilon as f32),
                self.offset_argument(),
            ];
            gpu.launch(kernel, x.dtype(), [blocks, 1, 1], threads, shared, &arguments)
        })
    }

    /// What the kernels of heads take last: the rows, the weight, the heads' place and the norm's constants.
    fn heads_arguments(self, x: &Tensor, heads: HeadColumns, weight: &Tensor) -> Result<[Argument; 9]> {
        let (rows, width) = x.dims2()?;
        Ok([
            pointer(x)?,
            pointer(weight)?,
            int(rows)?,
            int(width)?,
            int(heads.first)?,
            int(heads.count)?,
            int(weight.elem_count())?,
            Argument::F32(self.epsilon as f32),
            self.offset_argument(),
        ])
    }

    pub(super) fn heads_forward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        heads: HeadColumns,
        weight: &Tensor,
    ) -> Result<()> {
        all_of(x.dtype(), &[weight])?;
        let blocks = (x.dims2()?.0 * heads.count).div_ceil(4);
        let arguments = self.heads_arguments(x, heads, weight)?;
        gpu.launch("heads_norm", x.dtype(), [blocks, 1, 1], 128, 0, &arguments)
    }

    pub(super) fn heads_backward_gpu(
        self,
        gpu: &Gpu,
        x: &Tensor,
        dy: &Tensor,
        heads: HeadColumns,
        weight: &Tensor,
        d_weight: Option<&Tensor>,
    ) -> Result<()> {
        all_of(x.dtype(), &[weight, dy])?;
        let d = weight.elem_count();
        let blocks = (x.dims2()?.0 * heads.count).min(1024);
        with_partial_sums(gpu, d_weight, (blocks, d), |partial| {
            let mut arguments = vec![pointer(dy)?, partial];
            arguments.extend(self.heads_arguments(x, heads, weight)?);
            gpu.launch("heads_norm_backward", x.dtype(), [blocks, 1, 1], 32, d * 4, &arguments)
        })
    }
}

/// How many vectors of 16 bytes a row of `h` has; `None` where rows are no whole vectors.
fn vectors_of_a_row(h: usize, dtype: DType) -> Option<usize> {
    let numbers = 16 / dtype.size_in_bytes();
    h.is_multiple_of(numbers).then_some(h / numbers)
}

/// Runs `launch` with the address of an f32 tensor \[blocks, width], a row of sums for each block, and adds the rows to
/// `d_weight`; without `d_weight` the address is null.
fn with_partial_sums(
    gpu: &Gpu,
    d_weight: Option<&Tensor>,
    (blocks, width): (usize, usize),
    launch: impl FnOnce(Argument) -> Result<()>,
) -> Result<()> {
    let Some(d_weight) = d_weight else { return launch(pointer_or_null(None)?) };
    let partial = gpu.unwritten((blocks.max(1), width), DType::F32)?;
    launch(pointer(&partial)?)?;
    sum_partials(gpu, d_weight, &partial, blocks)
}
