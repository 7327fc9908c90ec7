//! The CPU form of [`RmsNorm`]: sums in a fixed number of lanes, folded in a fixed order.

use candle_core::{Result, Tensor};

use super::{HeadColumns, RmsNorm};
use crate::cpu::Real;
use crate::cpu::parallel::{SharedMut, for_each, for_rows};
use crate::cpu::simd::simd;
use crate::cpu::storage::{tensor_of, unwritten, with_slice, with_slice_mut};

/// What a row's gradient multiplies with: dx = `scale` · w · dy − `x_factor` · x.
#[derive(Clone, Copy)]
struct RowFactors<T> {
    scale: T,
    x_factor: T,
}

simd! {
    /// Σ x² in sixteen lanes, folded in a fixed order.
    fn sum_of_squares<T: Real>(x: &[T]) -> T {
        let mut lanes = [T::ZERO; 16];
        let chunks = x.chunks_exact(16);
        let rest = chunks.remainder();
        for chunk in chunks {
            for (lane, &v) in lanes.iter_mut().zip(chunk) {
                *lane = v.fma(v, *lane);
            }
        }
        for (lane, &v) in lanes.iter_mut().zip(rest) {
            *lane = v.fma(v, *lane);
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        total
    }

    /// Σ x·w·dy in sixteen lanes, folded in a fixed order.
    fn dot3<T: Real>(x: &[T], w: &[T], dy: &[T]) -> T {
        let mut lanes = [T::ZERO; 16];
        let n = x.len();
        let whole = n / 16 * 16;
        for start in (0..whole).step_by(16) {
            let (x, w, dy) = (&x[start..start + 16], &w[start..start + 16], &dy[start..start + 16]);
            for i in 0..16 {
                lanes[i] = (x[i] * w[i]).fma(dy[i], lanes[i]);
            }
        }
        for i in whole..n {
            lanes[i - whole] = (x[i] * w[i]).fma(dy[i], lanes[i - whole]);
        }
        let mut total = T::ZERO;
        for lane in lanes {
            total += lane;
        }
        total
    }

    fn scale_row<T: Real>(x: &[T], w: &[T], scale: T, out: &mut [T]) {
        for ((y, &x), &w) in out.iter_mut().zip(x).zip(w) {
            *y = x * scale * w;
        }
    }

    /// dx (+)= scale · w · dy − x · x_factor; d_weight += dy · x · scale.
    fn row_backward<T: Real>(x: &[T], w: &[T], dy: &[T], factors: RowFactors<T>, dx: &mut [T], add: bool, d_weight: &mut [T]) {
        let RowFactors { scale, x_factor: factor } = factors;
        if add {
            for (((d, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                *d += scale * w * dy - x * factor;
            }
        } else {
            for (((d, &x), &w), &dy) in dx.iter_mut().zip(x).zip(w).zip(dy) {
                *d = scale * w * dy - x * factor;
            }
        }
        for ((d, &x), &dy) in d_weight.iter_mut().zip(x).zip(dy) {
            *d = (x * scale).fma(dy, *d);
        }
    }
}

impl RmsNorm {
    /// The weight as it multiplies: w or 1 + w.
    fn effective<T: Real>(self, weight: &[T]) -> Vec<T> {
        let offset = if self.offset { T::ONE } else { T::ZERO };
        weight.iter().map(|&w| w + offset).collect()
    }

    fn scale<T: Real>(self, row: &[T]) -> T {
        T::ONE / (sum_of_squares(row) / T::of(row.len() as f64) + T::of(self.epsilon)).sqrt_()
    }

    pub(super) fn forward_cpu<T: Real>(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let h = weight.elem_count();
        let mut out = unwritten(x.elem_count());
        with_slice::<T, _>(weight, |weight| {
            let weight = self.effective(weight);
            with_slice::<T, _>(x, |x| {
                for_rows(&mut out, h, 1 << 13, |first, rows| {
                    for (row, x) in rows.chunks_exact_mut(h).zip(x[first * h..].chunks_exact(h)) {
                        scale_row(x, &weight, self.scale(x), row);
                    }
                });
            })
        })??;
        tensor_of(out, x.shape().clone())
    }

    pub(super) fn backward_cpu<T: Real>(
        self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        d_weight: Option<&Tensor>,
        dx_sum: &Tensor,
    ) -> Result<()> {
        let h = weight.elem_count();
        with_slice::<T, _>(weight, |weight| {
            let weight = self.effective(weight);
            with_slice::<T, _>(x, |x| {
                with_slice::<T, _>(dy, |dy| {
                    with_slice_mut::<T, _>(dx_sum, |dx| {
                        let sums = self.rows_backward(x, &weight, dy, dx, h);
                        match d_weight {
                            Some(d_weight) => with_slice_mut::<T, _>(d_weight, |d| {
                                sums.iter().for_each(|sum| add_to(d, sum));
                            }),
                            None => Ok(()),
                        }
                    })?
                })?
            })?
        })?
    }

    pub(super) fn heads_forward_cpu<T: Real>(
        self,
        x: &Tensor,
        heads: HeadColumns,
        weight: &Tensor,
    ) -> Result<()> {
        let width = x.dims2()?.1;
        with_slice::<T, _>(weight, |weight| {
            with_slice_mut::<T, _>(x, |x| self.heads_in_place(x, width, heads, weight))
        })?
    }

    pub(super) fn heads_backward_cpu<T: Real>(
        self,
        x: &Tensor,
        dy: &Tensor,
        heads: HeadColumns,
        weight: &Tensor,
        d_weight: Option<&Tensor>,
    ) -> Result<()> {
        let width = x.dims2()?.1;
        with_slice::<T, _>(weight, |w| {
            with_slice::<T, _>(x, |x| {
                with_slice_mut::<T, _>(dy, |dy| {
                    let sum = self.heads_backward_in_place(x, dy, width, heads, w);
                    match d_weight {
                        Some(d_weight) => with_slice_mut::<T, _>(d_weight, |d| add_to(d, &sum)),
                        None => Ok(()),
                    }
                })
            })
        })???
    }

    /// Adds to `dx`; returns the weight's gradient per block of rows. Blocks have a fixed size, so that their sum
    /// does not depend on the number of threads.
    fn rows_backward<T: Real>(self, x: &[T], weight: &[T], dy: &[T], dx: &mut [T], h: usize) -> Vec<Vec<T>> {
        const BLOCK: usize = 128;
        let rows = dx.len() / h.max(1);
        let mut d_weights = vec![vec![T::ZERO; h]; rows.div_ceil(BLOCK)];
        let (all_dx, all_d_weights) = (SharedMut::new(dx), SharedMut::new(&mut d_weights));
        for_each(rows.div_ceil(BLOCK), |block| {
            let rows = block * BLOCK..((block + 1) * BLOCK).min(rows);
            // SAFETY: each block belongs to one task.
            let (dx, d_weight) = unsafe {
                (all_dx.range(rows.start * h, rows.len() * h), &mut all_d_weights.range(block, 1)[0])
            };
            let (x, dy) = (&x[rows.start * h..], &dy[rows.start * h..]);
            for ((dx, x), dy) in dx.chunks_exact_mut(h).zip(x.chunks_exact(h)).zip(dy.chunks_exact(h)) {
                self.row_gradient(x, weight, dy, dx, true, d_weight);
            }
        });
        d_weights
    }

    fn row_gradient<T: Real>(
        self,
        x: &[T],
        weight: &[T],
        dy: &[T],
        dx: &mut [T],
        add: bool,
        d_weight: &mut [T],
    ) {
        let scale = self.scale(x);
        let x_factor = scale * scale * scale * dot3(x, weight, dy) / T::of(x.len() as f64);
        row_backward(x, weight, dy, RowFactors { scale, x_factor }, dx, add, d_weight);
    }

    fn heads_in_place<T: Real>(self, x: &mut [T], width: usize, heads: HeadColumns, weight: &[T]) {
        let weight = self.effective(weight);
        let d = weight.len();
        for_rows(x, width, 1 << 13, |_, rows| {
            let mut normed = vec![T::ZERO; d];
            for row in rows.chunks_exact_mut(width) {
                for head in row[heads.range(d)].chunks_exact_mut(d) {
                    scale_row(head, &weight, self.scale(head), &mut normed);
                    head.copy_from_slice(&normed);
                }
            }
        });
    }

    /// Turns `dy` into dx; returns the weight's gradient.
    fn heads_backward_in_place<T: Real>(
        self,
        x: &[T],
        dy: &mut [T],
        width: usize,
        heads: HeadColumns,
        weight: &[T],
    ) -> Vec<T> {
        let weight = self.effective(weight);
        let d = weight.len();
        let mut sum = vec![T::ZERO; d];
        let mut dx = vec![T::ZERO; d];
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact_mut(width)) {
            let columns = heads.range(d);
            for (x, dy) in x[columns.clone()].chunks_exact(d).zip(dy[columns].chunks_exact_mut(d)) {
                self.row_gradient(x, &weight, dy, &mut dx, false, &mut sum);
                dy.copy_from_slice(&dx);
            }
        }
        sum
    }
}

fn add_to<T: Real>(total: &mut [T], part: &[T]) {
    total.iter_mut().zip(part).for_each(|(total, &part)| *total += part);
}
