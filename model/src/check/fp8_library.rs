//! Products in FP8 by the device's own library against our own kernel, on the same codes and scales.

use candle_core::{DType, Result};

use super::{CheckTarget, Deviation, MechanismReport, distance, noise};
use crate::gpu::{Gpu, has_fp8};
use crate::ops::fp8_product::{Fp8Rows, fp8_product, library_product};

/// Few and many rows, sides that are no powers of two.
const SHAPES: [(usize, usize, usize); 4] =
    [(1, 512, 256), (16, 1024, 512), (130, 1088, 1024), (512, 2048, 768)];

/// Compares them, where the library takes the product.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_fp8_library(target: &CheckTarget, seed: u64) -> Result<MechanismReport> {
    target.run(|| {
        let device = target.device();
        let Some(gpu) = Gpu::at(device)? else { return Ok(MechanismReport::absent("there is no GPU")) };
        if !has_fp8(device)? {
            return Ok(MechanismReport::absent("this GPU, or this build, does not multiply in FP8"));
        }
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for (t, k, n) in SHAPES {
            let place = |shape: &[usize], seed| noise(shape, seed)?.to_dtype(DType::BF16)?.to_device(device);
            let (rows, weights) = (place(&[t, k], seed)?, place(&[n, k], seed + 1)?);
            let (rows, weights) = (Fp8Rows::of(&gpu, &rows)?, Fp8Rows::of(&gpu, &weights)?);
            for dtype in [DType::BF16, DType::F32] {
                let name = format!("{t} rows by {n} × {k}");
                let by_library = gpu.unwritten((t, n), dtype)?;
                if !library_product(&gpu, &rows, &weights, &by_library)? {
                    refused.push(format!("{name} in {dtype:?}"));
                    continue;
                }
                let own = gpu.unwritten((t, n), dtype)?;
                fp8_product(&gpu, &rows, &weights, &own)?;
                let distance = distance(&by_library, &own)?;
                // Either keeps some fourteen bits of a sum, in another order; bf16 rounds by 2⁻⁹.
                found.push(Deviation { name, dtype, distance, bound: 8e-3 });
            }
        }
        let remark = (!refused.is_empty()).then(|| match found.is_empty() {
            true => "the library takes none of these products, our own kernel makes them".to_owned(),
            false => format!("the library does not take {}", refused.join(", ")),
        });
        Ok(MechanismReport { found, remark })
    })
}
