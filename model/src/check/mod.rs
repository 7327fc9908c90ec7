//! A GPU against the CPU: every operation, and whole decoders of every family.
//!
//! Used by the tests, where an emulator runs the kernels, and by `selfplay bench check` on a GPU, with larger shapes. The
//! inputs are rounded to the dtype first, so that what is compared is the operation's own rounding. Outputs are poisoned:
//! a place that is not written shows as NaN.

mod decoders;
mod fp8_library;
mod hopper;
mod hopper_timing;
mod hopper_trial;
mod memory;
mod mixed_steps;
mod operations;

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};

pub use self::decoders::{compare_captured, compare_decoders, compare_gradients, compare_steps};
pub use self::fp8_library::compare_fp8_library;
pub use self::hopper::{compare_hopper, compare_hopper_kernel};
pub use self::hopper_timing::HopperTiming;
pub use self::hopper_trial::{HopperTrial, hopper_sources, try_hopper};
pub use self::memory::{
    compare_copies, compare_growing, compare_late_reads, compare_loading, compare_staging, compare_times,
};
pub use self::mixed_steps::{compare_growth, compare_mixed};
pub use self::operations::{InputSize, OperationGroup, compare_all, compare_group};
use crate::gpu::{Launcher, emulate, poison};

/// Where the GPU forms run.
pub enum CheckTarget {
    /// A GPU.
    Device(Device),
    /// Memory of the CPU, and what runs kernels on it.
    Emulator(Arc<dyn Launcher>),
}

impl CheckTarget {
    /// Where the tensors lie.
    pub fn device(&self) -> &Device {
        match self {
            CheckTarget::Device(device) => device,
            CheckTarget::Emulator(_) => &Device::Cpu,
        }
    }

    /// Runs `f` where operations on [`CheckTarget::device`] take their GPU forms, and what they are to write is poisoned.
    pub fn run<R>(&self, f: impl FnOnce() -> R) -> R {
        self.run_plainly(|| {
            poison(true);
            let result = f();
            poison(false);
            result
        })
    }

    /// As [`CheckTarget::run`], with memory as it comes: for timings.
    fn run_plainly<R>(&self, f: impl FnOnce() -> R) -> R {
        let _emulation = match self {
            CheckTarget::Device(_) => None,
            CheckTarget::Emulator(launcher) => Some(emulate(launcher.clone())),
        };
        f()
    }
}

/// How far one result of an operation is from the CPU's.
#[derive(Clone, Debug)]
pub struct Deviation {
    /// The operation, its shape, and which of its results.
    pub name: String,
    /// What the GPU form computed in.
    pub dtype: DType,
    /// ‖got − want‖ / ‖want‖; infinite where a number is not finite.
    pub distance: f64,
    /// The largest distance that rounding explains.
    pub bound: f64,
}

impl Deviation {
    /// Whether rounding explains the distance.
    pub fn is_ok(&self) -> bool {
        self.distance <= self.bound
    }
}

/// What a mechanism does, or why it is not there.
#[derive(Clone, Debug, Default)]
pub struct MechanismReport {
    /// Its results; none where it is not there.
    pub found: Vec<Deviation>,
    /// What of it is to be known.
    pub remark: Option<String>,
}

impl MechanismReport {
    /// Of a machine, or a build, without it.
    fn absent(why: &str) -> Self {
        Self { found: Vec::new(), remark: Some(why.to_owned()) }
    }
}

/// A result that is right or not: of a bound of 0.
fn exact(name: impl Into<String>, dtype: DType, distance: f64) -> Deviation {
    Deviation { name: name.into(), dtype, distance, bound: 0.0 }
}

/// Numbers between −1 and 1 that look random, f32 on the CPU.
pub fn noise(shape: &[usize], seed: u64) -> Result<Tensor> {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// ‖got − want‖ / ‖want‖ in f64; infinite where a number of `got` is not finite.
///
/// # Errors
/// Tensors of different shapes.
pub fn distance(got: &Tensor, want: &Tensor) -> Result<f64> {
    if got.dims() != want.dims() {
        candle_core::bail!("{:?} against {:?}", got.dims(), want.dims())
    }
    let numbers =
        |x: &Tensor| x.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (got, want) = (numbers(got)?, numbers(want)?);
    if got.iter().any(|x| !x.is_finite()) {
        return Ok(f64::INFINITY);
    }
    let off: f64 = got.iter().zip(&want).map(|(g, w)| (g - w) * (g - w)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    Ok((off / size.max(1e-30)).sqrt())
}

/// A tensor whose rows are a block of [`noise`], repeated: as much as a timing wants, without as many numbers drawn.
///
/// # Errors
/// Out of memory.
pub fn repeated_noise(rows: usize, columns: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    const BLOCK: usize = 64;
    let block = noise(&[BLOCK.min(rows.max(1)), columns], 3)?.to_dtype(dtype)?.to_device(device)?;
    block.repeat((rows.div_ceil(BLOCK), 1))?.narrow(0, 0, rows)?.contiguous()?.copy()
}
