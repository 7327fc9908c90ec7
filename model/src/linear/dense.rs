//! Products with dense matrices in Hugging Face's layout \[out, in], one module at a time, into or from some columns of an
//! output that modules share.

use candle_core::{Result, Tensor};

use super::sum_order::SumOrder;
use crate::cpu::by_dtype;
use crate::cpu::gemm::{MatrixRef, Store, gemm};
use crate::cpu::storage::{with_slice, with_slice_mut};
use crate::gpu::{Gemm, Gpu, operand};
use crate::ops::fixed_product::fixed_product;

/// out\[.., first..first + n] ← x·weightᵀ for x \[t, k] and weight \[n, k].
pub(super) fn forward(
    gpu: Option<&Gpu>,
    x: &Tensor,
    weight: &Tensor,
    out: &Tensor,
    first: usize,
    sums: SumOrder,
) -> Result<()> {
    let ((t, k), n) = (x.dims2()?, weight.dims2()?.0);
    match (gpu, sums) {
        (Some(gpu), SumOrder::ByRow) => fixed_product(gpu, x, weight, out, first),
        (Some(gpu), SumOrder::Fastest) => gpu.gemm(&Gemm {
            m: t,
            n,
            k,
            a: operand(x)?,
            b: operand(weight)?.transposed(),
            c: operand(out)?.columns_from(first),
            accumulate: false,
        }),
        // An empty output has no column to begin at.
        (None, _) if t == 0 => Ok(()),
        (None, _) => {
            let width = out.dims2()?.1;
            by_dtype!(x.dtype(), T => with_slice::<T, _>(x, |x| {
                with_slice::<T, _>(weight, |w| {
                    with_slice_mut::<T, _>(out, |out| {
                        let w = MatrixRef::row_major(w, n, k, k).transposed();
                        gemm(MatrixRef::row_major(x, t, k, k), w, &mut out[first..], width, Store::Overwrite);
                    })
                })
            })??)
        }
    }
}

/// out\[.., first..first + n] += x·weightᵀ, as [`forward`] takes it. On a GPU a row's bits may depend on the rows beside it.
pub(super) fn forward_add(
    gpu: Option<&Gpu>,
    x: &Tensor,
    weight: &Tensor,
    out: &Tensor,
    first: usize,
) -> Result<()> {
    let ((t, k), n) = (x.dims2()?, weight.dims2()?.0);
    if let Some(gpu) = gpu {
        let (a, b, c) = (operand(x)?, operand(weight)?.transposed(), operand(out)?.columns_from(first));
        return gpu.gemm(&Gemm { m: t, n, k, a, b, c, accumulate: true });
    }
    if t == 0 {
        return Ok(());
    }
    let width = out.dims2()?.1;
    by_dtype!(x.dtype(), T => with_slice::<T, _>(x, |x| {
        with_slice::<T, _>(weight, |w| {
            with_slice_mut::<T, _>(out, |out| {
                let w = MatrixRef::row_major(w, n, k, k).transposed();
                gemm(MatrixRef::row_major(x, t, k, k), w, &mut out[first..], width, Store::Accumulate);
            })
        })
    })??)
}

/// dx \[t, k] ← dy\[.., first..first + n]·weight, or added to dx, for weight \[n, k].
pub(super) fn backward_input(
    gpu: Option<&Gpu>,
    dy: &Tensor,
    weight: &Tensor,
    dx: &Tensor,
    first: usize,
    accumulate: bool,
) -> Result<()> {
    let ((t, width), (n, k)) = (dy.dims2()?, weight.dims2()?);
    if let Some(gpu) = gpu {
        let (a, b, c) = (operand(dy)?.columns_from(first), operand(weight)?, operand(dx)?);
        return gpu.gemm(&Gemm { m: t, n: k, k: n, a, b, c, accumulate });
    }
    let store = if accumulate { Store::Accumulate } else { Store::Overwrite };
    by_dtype!(dy.dtype(), T => with_slice::<T, _>(dy, |dy| {
        with_slice::<T, _>(weight, |w| {
            with_slice_mut::<T, _>(dx, |dx| {
                let columns = MatrixRef::row_major(&dy[first..], t, n, width);
                gemm(columns, MatrixRef::row_major(w, n, k, k), dx, k, store);
            })
        })
    })??)
}

/// d_weight \[n, k] += dy\[.., first..first + n]ᵀ·x for x \[t, k].
pub(super) fn backward_weight(
    gpu: Option<&Gpu>,
    x: &Tensor,
    dy: &Tensor,
    d_weight: &Tensor,
    first: usize,
) -> Result<()> {
    let ((t, width), (n, k)) = (dy.dims2()?, d_weight.dims2()?);
    if let Some(gpu) = gpu {
        let (a, b, c) = (operand(dy)?.columns_from(first).transposed(), operand(x)?, operand(d_weight)?);
        return gpu.gemm(&Gemm { m: n, n: k, k: t, a, b, c, accumulate: true });
    }
    by_dtype!(dy.dtype(), T => with_slice::<T, _>(dy, |dy| {
        with_slice::<T, _>(x, |x| {
            with_slice_mut::<T, _>(d_weight, |d_weight| {
                let columns = MatrixRef::row_major(&dy[first..], t, n, width).transposed();
                gemm(columns, MatrixRef::row_major(x, t, k, k), d_weight, k, Store::Accumulate);
            })
        })
    })??)
}
