//! Every operation of the device, and whole decoders with the gradient of every parameter, against the CPU's; steps of
//! sampling against other steps, bit for bit.

use candle_core::DType;
use selfplay_model::check::{
    CheckTarget, InputSize, compare_all, compare_decoders, compare_hopper, compare_steps,
};

use super::{Bench, Measurement, fault};
use crate::error::{EngineError, Result};

/// Runs all comparisons at full size; a difference that rounding does not explain is an error that names all of them.
pub(super) fn run(bench: &Bench) -> Result<Vec<Measurement>> {
    if bench.device.is_cpu() {
        return Err(EngineError::input(
            "bench check compares a GPU with the CPU: give --device cuda:N (the tests do it in an emulator)",
        ));
    }
    let start = std::time::Instant::now();
    let target = CheckTarget::Device(bench.device.clone());
    let mut found = compare_all(&target, InputSize::Large, bench.seed).map_err(fault)?;
    found.extend(compare_hopper(&target, InputSize::Large, bench.seed).map_err(fault)?);
    found.extend(compare_decoders(&target, bench.seed).map_err(fault)?);
    found.extend(compare_steps(&target, bench.seed).map_err(fault)?);
    let wrong: Vec<String> = found
        .iter()
        .filter(|comparison| !comparison.is_ok())
        .map(|c| format!("{} in {:?}: {:.1e} apart, {:.1e} allowed", c.name, c.dtype, c.distance, c.bound))
        .collect();
    if !wrong.is_empty() {
        return Err(EngineError::failure(format!(
            "{} of {} results are not as they must be:\n  {}",
            wrong.len(),
            found.len(),
            wrong.join("\n  ")
        )));
    }
    let worst = |dtype: DType| {
        found.iter().filter(|c| c.dtype == dtype).map(|c| c.distance / c.bound).fold(0.0, f64::max)
    };
    let line = bench.line("operations and decoders against the CPU", start.elapsed().as_secs_f64(), 0.0, 0.0);
    Ok(vec![
        line.with("results", found.len())
            .with("worst of its bound, f32", worst(DType::F32))
            .with("worst of its bound, bf16", worst(DType::BF16)),
    ])
}
