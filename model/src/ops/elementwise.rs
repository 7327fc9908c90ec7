//! Sums of tensors in place, biases, and sums over rows.

use candle_core::{DType, Result, Tensor};

use crate::cpu::parallel::for_rows;
use crate::cpu::simd::simd;
use crate::cpu::storage::{tensor_of, unwritten, with_slice, with_slice_mut};
use crate::cpu::{Real, by_dtype};
use crate::gpu::{Argument, Gpu, address, all_of, int, pointer};
use crate::profile::{self, OperationCost};

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
/// A tensor that is not contiguous.
pub(crate) fn add_assign(x: &Tensor, y: &Tensor) -> Result<()> {
    let _operation = profile::operation("add", || OperationCost::moving(&[x, y, x]));
    if let Some(gpu) = Gpu::of(x)? {
        return add_gpu(&gpu, x, x, y);
    }
    by_dtype!(x.dtype(), T => with_slice::<T, _>(y, |y| {
        with_slice_mut::<T, _>(x, |x| {
            for_rows(x, 1, 1 << 14, |first, part| add_into(part, &y[first..first + part.len()]))
        })
    })?)
}

/// A new tensor: the sum of two of equal shape.
///
/// # Errors
/// A tensor that is not contiguous.
pub fn sum(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let _operation = profile::operation("add", || OperationCost::moving(&[x, y, x]));
    if let Some(gpu) = Gpu::of(x)? {
        let out = gpu.unwritten(x.shape(), x.dtype())?;
        add_gpu(&gpu, &out, x, y)?;
        return Ok(out);
    }
    by_dtype!(x.dtype(), T => sum_cpu::<T>(x, y))
}

fn sum_cpu<T: Real>(x: &Tensor, y: &Tensor) -> Result<Tensor> {
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

/// x ← factor · x.
///
/// # Errors
/// A tensor that is not contiguous.
pub fn scale_assign(x: &Tensor, factor: f64) -> Result<()> {
    let _operation = profile::operation("scale", || OperationCost::moving(&[x, x]));
    if let Some(gpu) = Gpu::of(x)? {
        let n = x.elem_count();
        let arguments = [pointer(x)?, Argument::F32(factor as f32), Argument::I64(n as i64)];
        return gpu.launch("scale", x.dtype(), [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments);
    }
    by_dtype!(x.dtype(), T => with_slice_mut::<T, _>(x, |x| {
        for_rows(x, 1, 1 << 14, |_, part| scale_into(part, <T as Real>::of(factor)));
    }))
}

/// x ← 0; on a GPU, of an f32 tensor.
///
/// # Errors
/// A tensor that is not contiguous.
pub fn zero(x: &Tensor) -> Result<()> {
    let _operation = profile::operation("zero", || OperationCost::moving(&[x]));
    if let Some(gpu) = Gpu::of(x)? {
        all_of(DType::F32, &[x])?;
        let n = x.elem_count();
        let arguments = [pointer(x)?, Argument::I64(n as i64)];
        return gpu.launch_single("zero", [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments);
    }
    by_dtype!(x.dtype(), T => with_slice_mut::<T, _>(x, |x| {
        for_rows(x, 1, 1 << 16, |_, part| part.fill(T::ZERO));
    }))
}

/// Adds `bias` \[n] to the columns `first..first + n` of every row of `x` \[t, ·].
///
/// # Errors
/// A tensor that is not contiguous.
pub(crate) fn add_bias(x: &Tensor, first: usize, bias: &Tensor) -> Result<()> {
    if let Some(gpu) = Gpu::of(x)? {
        return add_bias_gpu(&gpu, x, first, bias);
    }
    let width = x.dims2()?.1;
    by_dtype!(x.dtype(), T => with_slice::<T, _>(bias, |bias| {
        with_slice_mut::<T, _>(x, |x| {
            for row in x.chunks_exact_mut(width.max(1)) {
                add_into(&mut row[first..first + bias.len()], bias);
            }
        })
    })?)
}

/// The backward of [`add_bias`]: d_bias \[n] += the sum over rows of the columns `first..first + n` of `dy` \[t, ·]; on a GPU
/// `d_bias` is f32.
///
/// # Errors
/// A tensor that is not contiguous.
pub(crate) fn add_bias_backward(dy: &Tensor, first: usize, d_bias: &Tensor) -> Result<()> {
    if let Some(gpu) = Gpu::of(dy)? {
        return add_bias_backward_gpu(&gpu, dy, first, d_bias);
    }
    let width = dy.dims2()?.1;
    by_dtype!(dy.dtype(), T => with_slice::<T, _>(dy, |dy| {
        with_slice_mut::<T, _>(d_bias, |d_bias| {
            let n = d_bias.len();
            for row in dy.chunks_exact(width.max(1)) {
                add_into(d_bias, &row[first..first + n]);
            }
        })
    })?)
}

/// Threads of a block that streams through a tensor.
pub const STREAM_THREADS: usize = 256;

/// Blocks that stream through `n` elements: enough to fill a GPU several times over, none without work.
pub fn stream_blocks(n: usize) -> usize {
    n.div_ceil(STREAM_THREADS * 8).min(4096)
}

/// Blocks that a grid may have in y.
pub(super) const GRID_ROWS: usize = 65_535;

fn add_gpu(gpu: &Gpu, out: &Tensor, x: &Tensor, y: &Tensor) -> Result<()> {
    all_of(out.dtype(), &[x, y])?;
    let n = out.elem_count();
    let arguments = [pointer(out)?, pointer(x)?, pointer(y)?, Argument::I64(n as i64)];
    gpu.launch("add", out.dtype(), [stream_blocks(n), 1, 1], STREAM_THREADS, 0, &arguments)
}

fn add_bias_gpu(gpu: &Gpu, x: &Tensor, first: usize, bias: &Tensor) -> Result<()> {
    let ((rows, width), n) = (x.dims2()?, bias.elem_count());
    let dtype = x.dtype();
    // A grid's height is limited: rows in pieces.
    for start in (0..rows).step_by(GRID_ROWS) {
        let at = address(x)? + (start * width * dtype.size_in_bytes()) as u64;
        let arguments = [Argument::Pointer(at), pointer(bias)?, int(width)?, int(first)?, int(n)?];
        let grid = [n.div_ceil(STREAM_THREADS), (rows - start).min(GRID_ROWS), 1];
        gpu.launch("add_bias", dtype, grid, STREAM_THREADS, 0, &arguments)?;
    }
    Ok(())
}

fn add_bias_backward_gpu(gpu: &Gpu, dy: &Tensor, first: usize, d_bias: &Tensor) -> Result<()> {
    let ((rows, width), n) = (dy.dims2()?, d_bias.elem_count());
    let rows_per_block = rows.div_ceil(256).max(16);
    let blocks = rows.div_ceil(rows_per_block);
    let partial = gpu.unwritten((blocks.max(1), n), DType::F32)?;
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
