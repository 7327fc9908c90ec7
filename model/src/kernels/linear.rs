//! Linear maps y = x·Wᵀ + b over weights in Hugging Face's layout \[out, in], several side by side in one output.

use candle_core::{Result, Tensor};

use super::elementwise::{add_bias, add_bias_backward, add_bias_backward_gpu, add_bias_gpu};
use super::fixed_product::fixed_product;
use super::gemm::{Element, MatrixRef, PackedMatrix, Store, gemm};
use super::gpu::{Gemm, Gpu, operand};
use super::storage::{tensor_of, unwritten, with_slice, with_slice_mut};

/// [`linear`] maps into the columns of one output, in order: x \[t, k] → \[t, Σ out].
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn linear<T: Element>(x: &Tensor, maps: &[Map]) -> Result<Tensor> {
    let (t, k) = x.dims2()?;
    let width: usize = maps.iter().map(Map::outputs).sum();
    if let Some(gpu) = Gpu::of(x)? {
        return linear_gpu(&gpu, x, maps, width, false);
    }
    let mut out = unwritten(t * width);
    with_slice::<T, _>(x, |x| -> Result<()> {
        let x = MatrixRef::row_major(x, t, k, k);
        let mut first = 0;
        for map in maps {
            let n = map.outputs();
            if t > 0 {
                with_slice::<T, _>(map.weight, |w| {
                    let w = MatrixRef::row_major(w, n, k, k).transposed();
                    gemm(x, w, &mut out[first..], width, Store::Overwrite);
                })?;
            }
            if let Some(bias) = map.bias {
                with_slice::<T, _>(bias, |bias| add_bias(&mut out, width, first, bias))?;
            }
            first += n;
        }
        Ok(())
    })??;
    tensor_of(out, (t, width))
}

/// As [`linear`], and a row's bits don't depend on the others. On the CPU they never do.
///
/// # Errors
/// As [`linear`].
pub fn linear_by_row<T: Element>(x: &Tensor, maps: &[Map]) -> Result<Tensor> {
    match Gpu::of(x)? {
        Some(gpu) => linear_gpu(&gpu, x, maps, maps.iter().map(Map::outputs).sum(), true),
        None => linear::<T>(x, maps),
    }
}

fn linear_gpu(gpu: &Gpu, x: &Tensor, maps: &[Map], width: usize, by_row: bool) -> Result<Tensor> {
    let (t, k) = x.dims2()?;
    let out = gpu.unwritten((t, width), x.dtype())?;
    let mut first = 0;
    for map in maps {
        let n = map.outputs();
        if by_row {
            fixed_product(gpu, x, map.weight, &out, first)?;
        } else {
            gpu.gemm(&Gemm {
                m: t,
                n,
                k,
                a: operand(x)?,
                b: operand(map.weight)?.transposed(),
                c: operand(&out)?.columns_from(first),
                accumulate: false,
            })?;
        }
        if let Some(bias) = map.bias {
            add_bias_gpu(gpu, &out, first, bias)?;
        }
        first += n;
    }
    Ok(out)
}

/// As [`linear`], over weights that were packed before.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn linear_packed<T: Element>(x: &Tensor, packed: &PackedMatrix<T>, maps: &[Map]) -> Result<Tensor> {
    let (t, k) = x.dims2()?;
    let width = packed.columns();
    let mut out = unwritten(t * width);
    with_slice::<T, _>(x, |x| {
        packed.product(MatrixRef::row_major(x, t, k, k), &mut out, width, Store::Overwrite)
    })?;
    let mut first = 0;
    for map in maps {
        if let Some(bias) = map.bias {
            with_slice::<T, _>(bias, |bias| add_bias(&mut out, width, first, bias))?;
        }
        first += map.outputs();
    }
    tensor_of(out, (t, width))
}

/// One map among those that share an input: its weight \[out, in] and bias \[out].
#[derive(Clone, Copy)]
pub struct Map<'a> {
    /// \[out, in].
    pub weight: &'a Tensor,
    /// \[out].
    pub bias: Option<&'a Tensor>,
}

impl Map<'_> {
    fn outputs(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }
}

/// Where one map's gradients are summed; `None` for what is frozen.
#[derive(Clone, Copy)]
pub struct MapGradient<'a> {
    /// \[out, in].
    pub weight: Option<&'a Tensor>,
    /// \[out].
    pub bias: Option<&'a Tensor>,
}

/// dx \[t, k] of [`linear`], given dy \[t, Σ out]; adds the maps' own gradients to `gradients`.
///
/// # Errors
/// A tensor that is not a contiguous CPU one.
pub fn linear_backward<T: Element>(
    x: &Tensor,
    dy: &Tensor,
    maps: &[Map],
    gradients: &[MapGradient],
) -> Result<Tensor> {
    if let Some(gpu) = Gpu::of(x)? {
        return linear_backward_gpu(&gpu, x, dy, maps, gradients);
    }
    let (t, k) = x.dims2()?;
    let width = dy.dims2()?.1;
    let mut dx = unwritten(t * k);
    if t == 0 {
        return tensor_of(dx, (t, k));
    }
    with_slice::<T, _>(dy, |dy| -> Result<()> {
        let mut first = 0;
        for (i, (map, gradient)) in maps.iter().zip(gradients).enumerate() {
            let n = map.outputs();
            let columns = MatrixRef::row_major(&dy[first..], t, n, width);
            with_slice::<T, _>(map.weight, |w| {
                let store = if i == 0 { Store::Overwrite } else { Store::Accumulate };
                gemm(columns, MatrixRef::row_major(w, n, k, k), &mut dx, k, store);
            })?;
            if let Some(d_weight) = gradient.weight {
                with_slice::<T, _>(x, |x| {
                    with_slice_mut::<T, _>(d_weight, |d| {
                        gemm(columns.transposed(), MatrixRef::row_major(x, t, k, k), d, k, Store::Accumulate);
                    })
                })??;
            }
            if let Some(d_bias) = gradient.bias {
                with_slice_mut::<T, _>(d_bias, |d| add_bias_backward(dy, width, first, d))?;
            }
            first += n;
        }
        Ok(())
    })??;
    tensor_of(dx, (t, k))
}

fn linear_backward_gpu(
    gpu: &Gpu,
    x: &Tensor,
    dy: &Tensor,
    maps: &[Map],
    gradients: &[MapGradient],
) -> Result<Tensor> {
    let (t, k) = x.dims2()?;
    let dx = gpu.unwritten((t, k), x.dtype())?;
    let mut first = 0;
    for (i, (map, gradient)) in maps.iter().zip(gradients).enumerate() {
        let n = map.outputs();
        let columns = operand(dy)?.columns_from(first);
        let (b, c) = (operand(map.weight)?, operand(&dx)?);
        gpu.gemm(&Gemm { m: t, n: k, k: n, a: columns, b, c, accumulate: i > 0 })?;
        if let Some(d_weight) = gradient.weight {
            let (a, b, c) = (columns.transposed(), operand(x)?, operand(d_weight)?);
            gpu.gemm(&Gemm { m: n, n: k, k: t, a, b, c, accumulate: true })?;
        }
        if let Some(d_bias) = gradient.bias {
            add_bias_backward_gpu(gpu, dy, first, d_bias)?;
        }
        first += n;
    }
    Ok(dx)
}
