//! The two rates that every floor is made of: a large copy and a large product.

use candle_core::{DType, Device, Tensor};
use selfplay_model::check::repeated_noise;
use selfplay_model::linear::{NewModule, SumOrder};
use selfplay_model::{Linear, Parameters};

use serde::{Deserialize, Serialize};

use super::{fault, median, timed};
use crate::error::Result;

/// What the machine reaches at most, measured just before a bench.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written in a second by a large copy.
    pub bytes_per_second: f64,
    /// Operations in a second of a large product in the bench's dtype.
    pub flops_per_second: f64,
}

/// Measures both on the device, on random numbers: zeros are faster than real data.
pub(super) fn measure(device: &Device, dtype: DType, repeats: usize) -> Result<Ceilings> {
    let is_cpu = device.is_cpu();
    // Far larger than any cache.
    let bytes: usize = if is_cpu { 512 << 20 } else { 4 << 30 };
    let from = random(bytes / dtype.size_in_bytes() / 4096, 4096, dtype, device)?;
    let mut copies = Vec::new();
    let mut copy = None;
    for _ in 0..=repeats {
        // The last copy's memory is freed for this one.
        drop(copy.take());
        copies.push(timed(device, || {
            copy = Some(from.copy().map_err(fault)?);
            Ok(())
        })?);
    }
    drop((from, copy));
    let side = if is_cpu { 2048 } else { 8192 };
    let (x, weight) = (random(side, side, dtype, device)?, random(side, side, dtype, device)?);
    let mut parameters = Parameters::default();
    let module = NewModule { name: "square".to_owned(), weight, bias: None };
    let linear = Linear::insert(&mut parameters, vec![module]).map_err(fault)?;
    let mut products = Vec::new();
    for _ in 0..=repeats {
        products.push(timed(device, || {
            linear.forward(&parameters, &x, SumOrder::Fastest).map_err(fault)?;
            Ok(())
        })?);
    }
    Ok(Ceilings {
        bytes_per_second: 2.0 * bytes as f64 / median(&mut copies[1..]),
        flops_per_second: 2.0 * (side as f64).powi(3) / median(&mut products[1..]),
    })
}

/// A tensor whose rows are a random block, repeated.
pub(super) fn random(rows: usize, columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    repeated_noise(rows, columns, dtype, device).map_err(fault)
}
