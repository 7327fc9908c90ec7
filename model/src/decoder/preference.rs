//! Linear heads of a preference model on chosen rows of the hidden states.

use candle_core::{DType, Result, Tensor, bail};

use super::{Decoder, by_dtype};
use crate::kernels::Real;
use crate::kernels::gemm::{Element, MatrixRef, Store, gemm};
use crate::kernels::gpu::{Gemm, Gpu, operand};
use crate::kernels::storage::{add_rows, select_rows, with_slice, with_slice_mut};
use crate::parameters::{Gradients, ParameterId};

impl Decoder {
    /// hidden\[rows]·Wᵀ, \[n]\[d] for a head W \[d, h].
    ///
    /// # Errors
    /// A row outside `hidden` \[t, h].
    pub fn project_rows(&self, hidden: &Tensor, rows: &[usize], head: ParameterId) -> Result<Vec<Vec<f32>>> {
        by_dtype!(self, project_rows_of(hidden, rows, head))
    }

    fn project_rows_of<T: Element>(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        head: ParameterId,
    ) -> Result<Vec<Vec<f32>>> {
        let (t, h) = hidden.dims2()?;
        let weight = self.value(head);
        let d = weight.dims2()?.0;
        check(rows, t)?;
        if let Some(gpu) = Gpu::of(hidden)? {
            let x = select_rows::<T>(hidden, rows)?;
            let out = gpu.unwritten((rows.len(), d), DType::F32)?;
            let (a, b, c) = (operand(&x)?, operand(weight)?.transposed(), operand(&out)?);
            gpu.gemm(&Gemm { m: rows.len(), n: d, k: h, a, b, c, accumulate: false })?;
            return out.to_vec2();
        }
        let mut out = vec![T::ZERO; rows.len() * d];
        with_slice::<T, _>(hidden, |x| {
            with_slice::<T, _>(weight, |w| {
                let x = gather(x, rows, h);
                gemm(
                    MatrixRef::row_major(&x, rows.len(), h, h),
                    MatrixRef::row_major(w, d, h, h).transposed(),
                    &mut out,
                    d,
                    Store::Overwrite,
                );
            })
        })??;
        Ok(out.chunks_exact(d.max(1)).map(|row| row.iter().map(|x| x.wide() as f32).collect()).collect())
    }

    /// The backward of [`Decoder::project_rows`]: adds to `d_hidden` \[t, h] in place and to the head's gradient.
    ///
    /// # Errors
    /// A row outside `hidden`, or d_out that is not \[n]\[d].
    pub fn project_rows_backward(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        head: ParameterId,
        d_out: &[Vec<f32>],
        d_hidden: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        by_dtype!(self, project_rows_backward_of(hidden, rows, head, d_out, d_hidden, gradients))
    }

    fn project_rows_backward_of<T: Element>(
        &self,
        hidden: &Tensor,
        rows: &[usize],
        head: ParameterId,
        d_out: &[Vec<f32>],
        d_hidden: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<()> {
        let (t, h) = hidden.dims2()?;
        let weight = self.value(head);
        let d = weight.dims2()?.0;
        check(rows, t)?;
        if d_out.len() != rows.len() || d_out.iter().any(|row| row.len() != d) {
            bail!("the gradient of a head of {d} outputs at {} rows has another shape", rows.len())
        }
        let n = rows.len();
        if let Some(gpu) = Gpu::of(hidden)? {
            let dy = Tensor::from_vec(d_out.concat(), (n, d), gpu.device())?.to_dtype(hidden.dtype())?;
            let dx = gpu.unwritten((n, h), hidden.dtype())?;
            let (a, b, c) = (operand(&dy)?, operand(weight)?, operand(&dx)?);
            gpu.gemm(&Gemm { m: n, n: h, k: d, a, b, c, accumulate: false })?;
            add_rows(&gpu, d_hidden, &dx, &rows.iter().map(|&row| row as u32).collect::<Vec<_>>(), None)?;
            let Some(d_weight) = gradients.get(head) else { return Ok(()) };
            let x = select_rows::<T>(hidden, rows)?;
            let (a, b, c) = (operand(&dy)?.transposed(), operand(&x)?, operand(d_weight)?);
            return gpu.gemm(&Gemm { m: d, n: h, k: n, a, b, c, accumulate: true });
        }
        let dy: Vec<T> = d_out.iter().flatten().map(|&x| T::of(f64::from(x))).collect();
        let mut dx = vec![T::ZERO; n * h];
        with_slice::<T, _>(weight, |w| {
            gemm(
                MatrixRef::row_major(&dy, n, d, d),
                MatrixRef::row_major(w, d, h, h),
                &mut dx,
                h,
                Store::Overwrite,
            );
        })?;
        with_slice_mut::<T, _>(d_hidden, |d_hidden| {
            for (row, dx) in rows.iter().zip(dx.chunks_exact(h)) {
                d_hidden[row * h..][..h].iter_mut().zip(dx).for_each(|(d, &x)| *d += x);
            }
        })?;
        let Some(d_weight) = gradients.get(head) else { return Ok(()) };
        with_slice::<T, _>(hidden, |x| {
            with_slice_mut::<T, _>(d_weight, |d_weight| {
                let x = gather(x, rows, h);
                gemm(
                    MatrixRef::row_major(&dy, n, d, d).transposed(),
                    MatrixRef::row_major(&x, n, h, h),
                    d_weight,
                    h,
                    Store::Accumulate,
                );
            })
        })?
    }
}

fn gather<T: Real>(hidden: &[T], rows: &[usize], h: usize) -> Vec<T> {
    rows.iter().flat_map(|row| &hidden[row * h..][..h]).copied().collect()
}

fn check(rows: &[usize], t: usize) -> Result<()> {
    match rows.iter().find(|&&row| row >= t) {
        Some(row) => bail!("row {row} of a batch of {t} tokens"),
        None => Ok(()),
    }
}
