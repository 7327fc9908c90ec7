//! Sums of tensors in place, and sums over rows.

use candle_core::Result;
use candle_core::Tensor;

use super::Real;
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
    with_slice_mut::<T, _>(x, |x| for_rows(x, 1, 1 << 14, |_, part| scale_into(part, T::of(factor))))
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
