//! A copy of all matrices of a map in FP8, for sampling alone (`sample.weights = "fp8"`).
//!
//! Weights are E4M3 with a scale for each output (largest / 448 of its row, as W + ΔW where there are adapters), activations E4M3
//! with a scale for each row that a product makes anew; y = (Σ x_code · w_code) · x_scale · w_scale, then the bias. A GPU multiplies
//! the codes themselves; a CPU multiplies the numbers that they mean, in f32, so that codes and scales have the same bits on both and
//! only the sums differ. Either way a row's codes are its own: nothing depends on the rows beside it.

use candle_core::{DType, Result, Tensor, bail};

use super::SumOrder;
use crate::cpu::e4m3::{E4M3_MAX, from_e4m3, to_e4m3};
use crate::cpu::gemm::{MatrixRef, PackedMatrix, Store};
use crate::cpu::parallel::for_rows;
use crate::cpu::storage::{with_slice, with_slice_mut};
use crate::gpu::Gpu;
use crate::ops::fp8_product::{Fp8Rows, fp8_product, library_product};

/// Numbers that are worth a thread's start.
const MIN_NUMBERS: usize = 1 << 14;

/// The copy.
pub(super) enum Fp8Copy {
    /// What the codes mean, packed as for any product of a CPU's inference, and the outputs' scales.
    Host { matrix: PackedMatrix<f32>, scales: Vec<f32>, inputs: usize },
    /// Codes and scales on a GPU.
    Device(Fp8Rows),
}

impl Fp8Copy {
    /// Of matrices \[n_i, inputs], one after the other, whose products then stand side by side. `matrix` gives the i-th, so that no
    /// two are in memory at a time.
    ///
    /// # Errors
    /// What `matrix` says; on a CPU, other numbers than f32.
    pub(super) fn of(
        gpu: Option<&Gpu>,
        rows: &[usize],
        inputs: usize,
        mut matrix: impl FnMut(usize) -> Result<Tensor>,
    ) -> Result<Self> {
        if let Some(gpu) = gpu {
            let all = Fp8Rows::unwritten(gpu, rows.iter().sum(), inputs)?;
            let mut first = 0;
            for (number, rows) in rows.iter().enumerate() {
                all.write(gpu, &matrix(number)?.contiguous()?, first)?;
                first += rows;
            }
            return Ok(Self::Device(all));
        }
        let (mut numbers, mut scales) = (Vec::with_capacity(rows.len()), Vec::new());
        for number in 0..rows.len() {
            let matrix = matrix(number)?;
            if matrix.dtype() != DType::F32 {
                bail!("a copy in FP8 is made of f32 on a CPU, not of {:?}", matrix.dtype())
            }
            let quantized = with_slice::<f32, _>(&matrix.contiguous()?, |rows| quantize(rows, inputs))?;
            scales.extend(quantized.scales);
            numbers.push(quantized.numbers);
        }
        let slices: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
        Ok(Self::Host { matrix: PackedMatrix::of_weights(&slices, inputs), scales, inputs })
    }

    /// out \[t, Σ n_i] ← x \[t, inputs]·Wᵀ.
    ///
    /// # Errors
    /// Another device than the copy's; dtypes without a form.
    pub(super) fn forward(&self, gpu: Option<&Gpu>, x: &Tensor, out: &Tensor, sums: SumOrder) -> Result<()> {
        match (self, gpu) {
            (Self::Device(weights), Some(gpu)) => {
                if x.dims2()?.0 == 0 {
                    return Ok(());
                }
                let rows = Fp8Rows::of(gpu, x)?;
                if sums == SumOrder::Fastest && library_product(gpu, &rows, weights, out)? {
                    return Ok(());
                }
                fp8_product(gpu, &rows, weights, out)
            }
            (Self::Host { matrix, scales, inputs }, None) => {
                let (t, k, width) = (x.dims2()?.0, *inputs, matrix.columns());
                let rows = with_slice::<f32, _>(x, |x| quantize(x, k))?;
                with_slice_mut::<f32, _>(out, |out| {
                    let codes = MatrixRef::row_major(&rows.numbers, t, k, k);
                    matrix.product(codes, out, width, Store::Overwrite);
                    for_rows(out, width, MIN_NUMBERS, |first, part| {
                        for (row, scale) in part.chunks_exact_mut(width).zip(&rows.scales[first..]) {
                            for (y, own) in row.iter_mut().zip(scales) {
                                *y = *y * scale * own;
                            }
                        }
                    });
                })
            }
            _ => bail!("a copy in FP8 of another device"),
        }
    }

    /// Bytes.
    pub(super) fn footprint(&self) -> usize {
        match self {
            Self::Host { matrix, scales, inputs } => 4 * (matrix.columns() * inputs + scales.len()),
            Self::Device(rows) => rows.footprint(),
        }
    }
}

/// Rows in E4M3 on a CPU.
struct HostRows {
    /// What the codes mean, before the scale.
    numbers: Vec<f32>,
    /// One for each row.
    scales: Vec<f32>,
}

/// Rows of `width` numbers, as `fp8_quantize` of gpu/cuda/fp8_product.cu makes them.
fn quantize(rows: &[f32], width: usize) -> HostRows {
    let scale_of = |row: &[f32]| {
        let largest = row.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        if largest > 0.0 { largest / E4M3_MAX } else { 1.0 }
    };
    let scales: Vec<f32> = rows.chunks_exact(width.max(1)).map(scale_of).collect();
    let mut numbers = vec![0.0; rows.len()];
    for_rows(&mut numbers, width, MIN_NUMBERS, |first, part| {
        let from = rows[first * width..].chunks_exact(width);
        for ((to, from), scale) in part.chunks_exact_mut(width).zip(from).zip(&scales[first..]) {
            for (to, x) in to.iter_mut().zip(from) {
                *to = from_e4m3(to_e4m3(x / scale));
            }
        }
    });
    HostRows { numbers, scales }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn numbers(rows: usize, columns: usize, seed: usize) -> Vec<f32> {
        // Sizes over four orders of magnitude: the smallest are below a row's smallest normal code.
        (0..rows * columns)
            .map(|i| {
                let part = ((i * 37 + seed * 101 + 11) % 97) as f32 / 48.0 - 1.0;
                part * 10f32.powi(((i * 13 + seed) % 5) as i32 - 4)
            })
            .collect()
    }

    #[test]
    fn a_row_is_scaled_to_448_and_each_number_is_the_nearest_code_s() {
        let (rows, width) = (4, 33);
        let mut values = numbers(rows, width, 1);
        values[2 * width..3 * width].fill(0.0);
        let HostRows { numbers: got, scales } = quantize(&values, width);
        for row in 0..rows {
            let of = |all: &[f32]| all[row * width..(row + 1) * width].to_vec();
            let (from, to) = (of(&values), of(&got));
            let largest = from.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert_eq!(scales[row], if row == 2 { 1.0 } else { largest / 448.0 });
            for (x, y) in from.iter().zip(&to) {
                // Half a step of three binary digits, or of the smallest codes.
                let (x, y) = (f64::from(x / scales[row]), f64::from(*y));
                assert!((x - y).abs() <= (x.abs() / 16.0).max(1.0 / 1024.0), "{x} became {y}");
            }
            if row != 2 {
                assert!(to.iter().any(|y| y.abs() == 448.0));
            }
        }
        assert!(quantize(&[], 7).numbers.is_empty());
    }

    /// Against the definition in f64, several matrices side by side, widths that fill no panel.
    #[test]
    fn the_product_is_that_of_the_codes_with_both_scales() {
        let (t, k, n) = (5, 37, [3, 9]);
        let tensor =
            |values: Vec<f32>, rows: usize| Tensor::from_vec(values, (rows, k), &Device::Cpu).unwrap();
        let weights = [numbers(n[0], k, 2), numbers(n[1], k, 3)];
        let copy = Fp8Copy::of(None, &n, k, |i| Ok(tensor(weights[i].clone(), n[i]))).unwrap();
        let x = numbers(t, k, 4);
        let out = Tensor::zeros((t, 12), DType::F32, &Device::Cpu).unwrap();
        copy.forward(None, &tensor(x.clone(), t), &out, SumOrder::Fastest).unwrap();
        let got = out.to_vec2::<f32>().unwrap();
        let (rows, all) = (quantize(&x, k), quantize(&weights.concat(), k));
        for i in 0..t {
            for (j, &got) in got[i].iter().enumerate() {
                let codes =
                    (0..k).map(|p| f64::from(rows.numbers[i * k + p]) * f64::from(all.numbers[j * k + p]));
                let scale = f64::from(rows.scales[i]) * f64::from(all.scales[j]);
                let (want, size) =
                    codes.fold((0.0, 0.0), |(sum, size): (f64, f64), x| (sum + x, size + x.abs()));
                let apart = (f64::from(got) - want * scale).abs();
                assert!(apart <= size * scale * 1e-5, "{i}, {j}: {got} for {}", want * scale);
            }
            // Alone it has the same bits.
            let one = Tensor::zeros((1, 12), DType::F32, &Device::Cpu).unwrap();
            let row = tensor(x[i * k..(i + 1) * k].to_vec(), 1);
            copy.forward(None, &row, &one, SumOrder::Fastest).unwrap();
            assert_eq!(one.to_vec2::<f32>().unwrap()[0], got[i]);
        }
        assert_eq!(copy.footprint(), 4 * (12 * k + 12));
    }
}
