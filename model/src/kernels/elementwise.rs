//! Sums of tensors in place, and sums over rows.

use candle_core::Result;
use candle_core::Tensor;

use super::Real;
use super::gpu::{Argument, Gpu, all_of, int, pointer};
use super::parallel::for_rows;
use super::simd::simd;
use super::storage::{tensor_of, unwritten, with_slice, with_slice_mut};

simd! {
    fn add_into<T: Real>(x: &mut [T], y: &[T]) {
        for (a, &b) in x.iter_mut().zip(y) {
            *a += b;
        }
    }

    fn sum_into<T: Real>(x: &[T], y: &[T], out: &mut [T]) {
        for ((o, &a), &b) in out.iter_mut().zip(x).zip(y) {
            *o = a + b;
        }
    }

    fn scale_into<T: Real>(x: &mut [T], factor: T) {
        for a in x.iter_mut() {
            *a *= factor;
        }
    }
}

/// x ← x + y, both of any equal shape.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn add_assign<T: Real>(x: &Tensor, y: &Tensor) -> Result<()> {
    if let Some(gpu) = Gpu::of(x)? {
        return add_gpu(&gpu, x, x, y);
    }
    with_slice::<T, _>(y, |y| {
        with_slice_mut::<T, _>(x, |x| {
            for_rows(x, 1, 1 << 14, |first, part| add_into(part, &y[first..first + part.len()]))
        })
    })?
}

/// x ← factor · x.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn scale_assign<T: Real>(x: &Tensor, factor: f64) -> Result<()> {
    if let Some(gpu) = Gpu::of(x)? {
        let n = x.elem_count();
        let arguments = [pointer(x)?, Argument::F32(factor as f32), Argument::I64(n as i64)];
        return gpu.launch("scale", x.dtype(), [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments);
    }
    with_slice_mut::<T, _>(x, |x| for_rows(x, 1, 1 << 14, |_, part| scale_into(part, T::of(factor))))
}

/// Threads of a block that streams through a tensor.
pub const STREAM_THREADS: usize = 256;

/// Blocks that stream through `n` elements: enough to fill a GPU several times over, none without work.
pub fn stream_blocks(n: usize) -> usize {
    n.div_ceil(STREAM_THREADS * 8).min(4096)
}

fn add_gpu(gpu: &Gpu, out: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
    all_of(out.dtype(), &[x, y])?;
    let n = out.elem_count();
    let arguments = [pointer(out)?, pointer(x)?, pointer(y)?, Argument::I64(n as i64)];
    gpu.launch("add", out.dtype(), [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments)
}

/// As [`add_bias`], of tensors on a GPU.
pub(super) fn add_bias_gpu(gpu: &Gpu, x: &Tensor, first: usize, bias: &Tensor) -> Result<()> {
    let ((rows, width), n) = (x.dims2()?, bias.elem_count());
    let dtype = x.dtype();
    // A grid's height is limited: rows in pieces.
    for start in (0..rows).step_by(GRID_ROWS) {
        let at = super::gpu::address(x)? + (start * width * dtype.size_in_bytes()) as u64;
        let arguments = [Argument::Pointer(at), pointer(bias)?, int(width)?, int(first)?, int(n)?];
        let grid = [n.div_ceil(STREAM_THREADS), (rows - start).min(GRID_ROWS), 1];
        gpu.launch("add_bias", dtype, grid, STREAM_THREADS, 0, &arguments)?;
    }
    Ok(())
}

/// Blocks that a grid may have in y.
pub(super) const GRID_ROWS: usize = 65_535;

/// As [`add_bias_backward`], of tensors on a GPU; `d_bias` in f32.
pub(super) fn add_bias_backward_gpu(gpu: &Gpu, dy: &Tensor, first: usize, d_bias: &Tensor) -> Result<()> {
    let ((rows, width), n) = (dy.dims2()?, d_bias.elem_count());
    let rows_per_block = rows.div_ceil(256).max(16);
    let blocks = rows.div_ceil(rows_per_block);
    let partial = gpu.unwritten((blocks.max(1), n), candle_core::DType::F32)?;
    let arguments = [
        pointer(&partial)?,
        pointer(dy)?,
        int(rows)?,
        int(rows_per_block)?,
        int(width)?,
        int(first)?,
        int(n)?,
    ];
    let grid = [n.div_ceil(STREAM_THREADS), blocks, 1];
    gpu.launch("column_sums", dy.dtype(), grid, STREAM_THREADS, 0, &arguments)?;
    sum_partials(gpu, d_bias, &partial, blocks)
}

/// sum \[n] += Σ partial\[b] over the first `blocks` rows of `partial` \[.., n], in their order.
pub(super) fn sum_partials(gpu: &Gpu, sum: &Tensor, partial: &Tensor, blocks: usize) -> Result<()> {
    let n = sum.elem_count();
    let arguments = [pointer(sum)?, pointer(partial)?, int(blocks)?, int(n)?];
    /// Columns of a block, each by sixteen threads: sum_partials in norm.cu.
    const COLUMNS: usize = 32;
    gpu.launch_single("sum_partials", [n.div_ceil(COLUMNS), 1, 1], 512, 0, &arguments)
}

/// Fills an f32 tensor with zeros.
pub(crate) fn zero_gpu(gpu: &Gpu, x: &Tensor) -> Result<()> {
    all_of(candle_core::DType::F32, &[x])?;
    let n = x.elem_count();
    let arguments = [pointer(x)?, Argument::I64(n as i64)];
    gpu.launch_single("zero", [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments)
}

/// Adds `bias` \[n] to columns `first..first + n` of every row of `x` (width `width`).
pub fn add_bias<T: Real>(x: &mut [T], width: usize, first: usize, bias: &[T]) {
    for row in x.chunks_exact_mut(width) {
        add_into(&mut row[first..first + bias.len()], bias);
    }
}

/// d_bias \[n] += the sum over rows of columns `first..first + n` of `dy`.
pub fn add_bias_backward<T: Real>(dy: &[T], width: usize, first: usize, d_bias: &mut [T]) {
    let n = d_bias.len();
    for row in dy.chunks_exact(width) {
        add_into(d_bias, &row[first..first + n]);
    }
}

/// A new tensor: the sum of two of equal shape.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn sum<T: Real>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if let Some(gpu) = Gpu::of(x)? {
        let out = gpu.unwritten(x.shape(), x.dtype())?;
        add_gpu(&gpu, &out, x, y)?;
        return Ok(out);
    }
    let mut out = unwritten(x.elem_count());
    with_slice::<T, _>(x, |x| {
        with_slice::<T, _>(y, |y| {
            for_rows(&mut out, 1, 1 << 14, |first, part| {
                let n = part.len();
                sum_into(&x[first..first + n], &y[first..first + n], part);
            });
        })
    })??;
    tensor_of(out, x.shape().clone())
}
