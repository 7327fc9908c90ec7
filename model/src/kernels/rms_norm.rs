//! Root-mean-square norm: y = x / √(mean x² + ε) · w, or · (1 + w) in Gemma's form.
//!
//! Zhang and Sennrich, arXiv 1910.07467. Nothing but x is kept for the backward: its scale is computed again.
//!
//! Past 400 lines because both forms of the norm have a forward and a backward, and a GPU form of each.

use candle_core::{DType, Result, Tensor};

use super::Real;
use super::elementwise::sum_partials;
use super::gpu::{Argument, Gpu, all_of, int, pointer, pointer_or_null};
use super::parallel::{SharedMut, for_each, for_rows};
use super::simd::simd;
use super::storage::{row_threads, tensor_of, unwritten, with_slice, with_slice_mut};

/// The constants of a norm.
#[derive(Clone, Copy, Debug)]
pub struct RmsNorm {
    /// ε, inside the root.
    pub epsilon: f64,
    /// Gemma's form: the weight is 1 + w.
    pub offset: bool,
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

    /// dx (+)= scale · w · dy − x · factor; d_weight += dy · x · scale.
    fn row_backward<T: Real>(x: &[T], w: &[T], dy: &[T], scale: T, factor: T, dx: &mut [T], add: bool, d_weight: &mut [T]) {
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

    /// Norm of each row of x \[.., h] with `weight` \[h].
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn forward<T: Real>(self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        if let Some(gpu) = Gpu::of(x)? {
            return Ok(self.forward_gpu(&gpu, x, None, weight)?.1);
        }
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

    /// x + delta and its norm, both \[.., h], in one pass on a GPU.
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn add_forward<T: Real>(
        self,
        x: &Tensor,
        delta: &Tensor,
        weight: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        if let Some(gpu) = Gpu::of(x)? {
            return self.forward_gpu(&gpu, x, Some(delta), weight);
        }
        let sum = super::elementwise::sum::<T>(x, delta)?;
        let normed = self.forward::<T>(&sum, weight)?;
        Ok((sum, normed))
    }

    /// The sum (x itself without `delta`) and its norm.
    fn forward_gpu(
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

    fn backward_gpu(
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

    /// Norms each head of the columns `first..first + heads·d` of every row of `x` \[t, width] in place (Qwen 3's q and k
    /// norm), `weight` \[d].
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn heads_forward<T: Real>(
        self,
        x: &Tensor,
        first: usize,
        heads: usize,
        weight: &Tensor,
    ) -> Result<()> {
        let ((rows, width), d) = (x.dims2()?, weight.elem_count());
        if let Some(gpu) = Gpu::of(x)? {
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
            return gpu.launch(
                "heads_norm",
                x.dtype(),
                [(rows * heads).div_ceil(4), 1, 1],
                128,
                0,
                &arguments,
            );
        }
        with_slice::<T, _>(weight, |weight| {
            with_slice_mut::<T, _>(x, |x| self.heads_in_place(x, width, first, heads, weight))
        })?
    }

    /// The backward of [`RmsNorm::heads_forward`]: `x` as it was before, `dy` overwritten with dx.
    ///
    /// # Errors
    /// A tensor that is not contiguous.
    pub fn heads_backward<T: Real>(
        self,
        x: &Tensor,
        dy: &Tensor,
        first: usize,
        heads: usize,
        weight: &Tensor,
        d_weight: Option<&Tensor>,
    ) -> Result<()> {
        let ((rows, width), d) = (x.dims2()?, weight.elem_count());
        if let Some(gpu) = Gpu::of(x)? {
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
            return match (d_weight, partial) {
                (Some(d_weight), Some(partial)) => sum_partials(&gpu, d_weight, &partial, blocks),
                _ => Ok(()),
            };
        }
        with_slice::<T, _>(weight, |w| {
            with_slice::<T, _>(x, |x| {
                with_slice_mut::<T, _>(dy, |dy| match d_weight {
                    Some(d_weight) => with_slice_mut::<T, _>(d_weight, |d_weight| {
                        self.heads_backward_in_place(x, dy, width, first, heads, w, Some(d_weight));
                    }),
                    None => {
                        self.heads_backward_in_place(x, dy, width, first, heads, w, None);
                        Ok(())
                    }
                })
            })
        })???
    }

    /// dx \[.., h]; adds to `d_weight` \[h] where it is given, and to `dx_sum` instead of a new tensor where that is.
    ///
    /// # Errors
    /// A tensor that is not a contiguous CPU one.
    pub fn backward<T: Real>(
        self,
        x: &Tensor,
        weight: &Tensor,
        dy: &Tensor,
        d_weight: Option<&Tensor>,
        dx_sum: &Tensor,
    ) -> Result<()> {
        if let Some(gpu) = Gpu::of(x)? {
            return self.backward_gpu(&gpu, x, weight, dy, d_weight, dx_sum);
        }
        let h = weight.elem_count();
        with_slice::<T, _>(weight, |weight| {
            let weight = self.effective(weight);
            with_slice::<T, _>(x, |x| {
                with_slice::<T, _>(dy, |dy| {
                    with_slice_mut::<T, _>(dx_sum, |dx| {
                        let sums = self.rows_backward(x, &weight, dy, dx, h);
                        match d_weight {
                            Some(d_weight) => with_slice_mut::<T, _>(d_weight, |d| {
                                for sum in &sums {
                                    d.iter_mut().zip(sum).for_each(|(d, &s)| *d += s);
                                }
                            }),
                            None => Ok(()),
                        }
                    })?
                })?
            })?
        })?
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
        let factor = scale * scale * scale * dot3(x, weight, dy) / T::of(x.len() as f64);
        row_backward(x, weight, dy, scale, factor, dx, add, d_weight);
    }

    fn heads_in_place<T: Real>(self, x: &mut [T], width: usize, first: usize, heads: usize, weight: &[T]) {
        let weight = self.effective(weight);
        let d = weight.len();
        for_rows(x, width, 1 << 13, |_, rows| {
            let mut normed = vec![T::ZERO; d];
            for row in rows.chunks_exact_mut(width) {
                for head in row[first..first + heads * d].chunks_exact_mut(d) {
                    scale_row(head, &weight, self.scale(head), &mut normed);
                    head.copy_from_slice(&normed);
                }
            }
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn heads_backward_in_place<T: Real>(
        self,
        x: &[T],
        dy: &mut [T],
        width: usize,
        first: usize,
        heads: usize,
        weight: &[T],
        d_weight: Option<&mut [T]>,
    ) {
        let weight = self.effective(weight);
        let d = weight.len();
        let mut sum = vec![T::ZERO; d];
        let mut dx = vec![T::ZERO; d];
        for (x, dy) in x.chunks_exact(width).zip(dy.chunks_exact_mut(width)) {
            let columns = first..first + heads * d;
            for (x, dy) in x[columns.clone()].chunks_exact(d).zip(dy[columns].chunks_exact_mut(d)) {
                self.row_gradient(x, &weight, dy, &mut dx, false, &mut sum);
                dy.copy_from_slice(&dx);
            }
        }
        if let Some(d_weight) = d_weight {
            d_weight.iter_mut().zip(&sum).for_each(|(d, &s)| *d += s);
        }
    }
}
