//! Products in FP8: codes and scales have the CPU's bits, so that only sums and the last rounding differ.

use candle_core::{DType, Result, Tensor};

use super::super::{Deviation, distance, noise};
use super::{InputSize, OperationChecks};
use crate::gpu::Gpu;
use crate::linear::{Linear, NewModule, SumOrder};
use crate::parameters::Parameters;

impl OperationChecks<'_> {
    /// Two modules side by side, the second with a bias; widths that fill no step of the matrix units, few and many rows.
    pub(super) fn fp8_maps(&mut self) -> Result<()> {
        let (wide, outputs) = if self.size == InputSize::Small { (96, 40) } else { (4096, 1024) };
        for (t, k, m, n) in
            [(1, wide, outputs, 16), (5, 37, 3, 7), (37, wide, outputs, 32), (130, 70, 64, 16)]
        {
            let first = self.found.len();
            let shapes: [&[usize]; 4] = [&[t, k], &[m, k], &[n, k], &[n]];
            self.compare(&format!("products in FP8 of {t} rows of {k}"), &shapes, |x| {
                let (parameters, linear) = quantized(&x[1], &x[2], Some(&x[3]))?;
                let fastest = linear.forward(&parameters, &x[0], SumOrder::Fastest)?;
                Ok(vec![fastest, linear.forward(&parameters, &x[0], SumOrder::ByRow)?])
            })?;
            // The matrix units of a GPU keep some fourteen bits of a sum of FP8 products.
            let is_large = self.size == InputSize::Large;
            for found in &mut self.found[first..] {
                if is_large && found.dtype == DType::F32 {
                    found.bound = 2e-3;
                }
            }
        }
        self.fp8_rows_alone(wide)
    }

    /// By row: the same bits alone, among a few, and among many.
    fn fp8_rows_alone(&mut self, k: usize) -> Result<()> {
        const ROWS: usize = 130;
        for dtype in [DType::F32, DType::BF16] {
            let place =
                |shape: &[usize]| noise(shape, self.seed)?.to_dtype(dtype)?.to_device(self.target.device());
            let (x, first, second) = (place(&[ROWS, k])?, place(&[70, k])?, place(&[5, k])?);
            let (parameters, linear) = self.target.run(|| quantized(&first, &second, None))?;
            let product = |from: usize, rows: usize| {
                let x = x.narrow(0, from, rows)?.copy()?;
                self.target.run(|| linear.forward(&parameters, &x, SumOrder::ByRow))
            };
            let parts = [product(0, 1)?, product(1, 40)?, product(41, ROWS - 41)?];
            let distance = distance(&Tensor::cat(&parts, 0)?, &product(0, ROWS)?)?;
            let name = format!("products in FP8 by row of {k}, the same bits in any batch");
            self.found.push(Deviation { name, dtype, distance, bound: 0.0 });
        }
        Ok(())
    }
}

/// A map of two modules with its copy in FP8.
fn quantized(first: &Tensor, second: &Tensor, bias: Option<&Tensor>) -> Result<(Parameters, Linear)> {
    let mut parameters = Parameters::default();
    let module = |name: &str, weight: &Tensor, bias: Option<&Tensor>| NewModule {
        name: name.to_owned(),
        weight: weight.clone(),
        bias: bias.cloned(),
    };
    let modules = vec![module("first", first, None), module("second", second, bias)];
    let mut linear = Linear::insert(&mut parameters, modules)?;
    linear.quantize(&parameters, Gpu::of(first)?.as_ref())?;
    Ok((parameters, linear))
}
