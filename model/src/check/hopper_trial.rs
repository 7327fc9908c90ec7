//! A trial of the kernels for compute capability 9.0 on a GPU: whether each is right, and how long it takes beside the one that every
//! GPU has. Who asks must be ready for a process that never comes back: a kernel may hang, and no error is told then.

use candle_core::{Result, bail};

use super::hopper::{compare_hopper_kernel, has_hopper};
use super::hopper_timing::{HopperTiming, time_kernel};
use super::operations::InputSize;
use super::{CheckTarget, Deviation};
use crate::gpu::{HopperKernel, HopperKernels};

/// What one kernel has shown.
#[derive(Clone, Debug)]
pub struct HopperTrial {
    /// Which.
    pub kernel: HopperKernel,
    /// Its results beside the CPU's and beside its own in other batches and runs, within the bounds of `bench check`.
    pub deviations: Vec<Deviation>,
    /// Its time; none where it is not right.
    pub timings: Vec<HopperTiming>,
    /// The device's error, where it gave one. A faulty address spoils the device for this process: what is tried after it fails too.
    pub error: Option<String>,
}

impl HopperTrial {
    /// Whether every result is within its bound, and there are results.
    pub fn is_right(&self) -> bool {
        self.error.is_none() && !self.deviations.is_empty() && self.deviations.iter().all(Deviation::is_ok)
    }
}

/// Tries some kernels, one after the other.
///
/// # Errors
/// A target without them; what the CPU's forms say.
pub fn try_hopper(
    target: &CheckTarget,
    kernels: HopperKernels,
    size: InputSize,
    seed: u64,
) -> Result<Vec<HopperTrial>> {
    if !has_hopper(target)? {
        bail!(
            "no kernels for compute capability 9.0 run here: the GPU is another, or this build is not for it"
        )
    }
    Ok(kernels.iter().map(|kernel| try_kernel(target, kernel, size, seed)).collect())
}

fn try_kernel(target: &CheckTarget, kernel: HopperKernel, size: InputSize, seed: u64) -> HopperTrial {
    let mut trial = HopperTrial { kernel, deviations: Vec::new(), timings: Vec::new(), error: None };
    let tried = compare_hopper_kernel(target, kernel, size, seed).and_then(|deviations| {
        trial.deviations = deviations;
        if trial.is_right() {
            trial.timings = time_kernel(target, kernel, size)?;
        }
        Ok(())
    });
    // One line: CUDA's message begins with the error's name; a backtrace may follow.
    trial.error = tried.err().map(|error| error.to_string().lines().next().unwrap_or_default().to_owned());
    trial
}

/// What is launched and how, as text: a trial's result is good for these sources alone.
pub fn hopper_sources() -> impl Iterator<Item = &'static str> {
    const LAUNCHES: [&str; 4] = [
        include_str!("../ops/attention/hopper.rs"),
        include_str!("../ops/fixed_product/hopper.rs"),
        include_str!("../gpu/tensor_map.rs"),
        include_str!("../gpu/cuda.rs"),
    ];
    [crate::gpu::KERNELS_HASH].into_iter().chain(LAUNCHES)
}
