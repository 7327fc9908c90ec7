//! What fresh factors begin with. Their numbers are functions of the seed and the module's path.
//!
//! | | A | B |
//! |---|---|---|
//! | default | uniform within ±1/√inputs (Kaiming's with a = √5) | 0 |
//! | gaussian | normal, deviation 1/r | 0 |
//! | pissa | √(Σ/s)·Vᵀ | U·√(Σ/s): s·B·A is W's best approximation of rank r |
//!
//! With pissa PEFT takes s·B·A away from W, and converts the trained factors to twice their rank when they are to go with the
//! W of before: \[A; A₀], \[B, −B₀]. Here W stays, and −s·B₀·A₀ is a term of its own, not trained, which is written in that
//! converted form: the adapter of a file always belongs on the base as it is.

use candle_core::{DType, Device, Tensor};
use selfplay_records::counter::{key, number};

use super::start::AdapterStart;
use super::svd::{SvdMatrix, leading};
use super::targets::Target;
use crate::error::ModelError;
use crate::weights::normal;

/// A and B of one term.
pub(super) struct Factors {
    /// \[r, inputs].
    pub a: Tensor,
    /// \[outputs, r].
    pub b: Tensor,
}

/// The factors that are trained and, with pissa, those that take their beginning away.
pub(super) struct Fresh {
    pub trained: Factors,
    pub taken: Option<Factors>,
}

/// Fresh factors for a module, on the CPU in f32; with pissa of its matrix `weight`, and in f64 for one of f64.
pub(super) fn fresh_factors(
    start: AdapterStart,
    target: &Target,
    weight: impl FnOnce() -> Result<Tensor, ModelError>,
    seed: u64,
) -> Result<Fresh, ModelError> {
    let Target { rank, inputs, outputs, .. } = *target;
    let stream = key(seed, target.path.bytes().map(u64::from));
    let count = rank * inputs;
    let a: Vec<f32> = match start {
        AdapterStart::Pissa => return Ok(principal(target, &weight()?)?),
        AdapterStart::Default => {
            let bound = 1.0 / (inputs as f64).sqrt();
            let unit = |place: usize| (number(stream, place as u64) >> 11) as f64 / (1u64 << 53) as f64;
            (0..count).map(|place| (bound * (2.0 * unit(place) - 1.0)) as f32).collect()
        }
        AdapterStart::Gaussian => {
            (0..count).map(|place| normal(stream, place as u64) / rank as f32).collect()
        }
    };
    let b = Tensor::zeros((outputs, rank), DType::F32, &Device::Cpu)?;
    Ok(Fresh { trained: Factors { a: Tensor::from_vec(a, (rank, inputs), &Device::Cpu)?, b }, taken: None })
}

fn principal(target: &Target, weight: &Tensor) -> candle_core::Result<Fresh> {
    let Target { rank, inputs, outputs, scale, .. } = *target;
    let wide = if weight.dtype() == DType::F64 { DType::F64 } else { DType::F32 };
    let numbers: Vec<f64> = weight.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
    let found = leading(SvdMatrix { numbers: &numbers, rows: outputs, columns: inputs }, rank);
    let roots: Vec<f64> = found.values.iter().map(|value| (value / scale).sqrt()).collect();
    let mut a = found.right;
    for (row, root) in a.chunks_exact_mut(inputs).zip(&roots) {
        row.iter_mut().for_each(|x| *x *= root);
    }
    let mut b = vec![0.0; outputs * rank];
    for (column, (left, root)) in found.left.chunks_exact(outputs).zip(&roots).enumerate() {
        left.iter().enumerate().for_each(|(row, x)| b[row * rank + column] = x * root);
    }
    let a = Tensor::from_vec(a, (rank, inputs), &Device::Cpu)?.to_dtype(wide)?;
    let b = Tensor::from_vec(b, (outputs, rank), &Device::Cpu)?.to_dtype(wide)?;
    let taken = Factors { a: a.copy()?, b: b.neg()? };
    Ok(Fresh { trained: Factors { a, b }, taken: Some(taken) })
}
