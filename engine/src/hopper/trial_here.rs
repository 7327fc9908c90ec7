//! What the process that tries the kernels does: it tries all of them on its GPU, and prints what they have shown.

use std::io::Read;
use std::thread;

use selfplay_model::ModelError;
use selfplay_model::check::{CheckTarget, InputSize, try_hopper};
use selfplay_model::gpu::HopperKernels;

use super::verdict::HopperVerdict;
use crate::console::terminal::print;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};

/// The flag of `doctor`, which its help does not name.
pub(super) const FLAG: &str = "--kernel-trial";

/// Of the inputs.
const SEED: u64 = 1;

/// Tries all of them on a device, and prints the verdict as a line of JSON.
///
/// # Errors
/// A device without them, or that is not there.
pub(crate) fn try_here(device: DeviceChoice) -> Result<()> {
    if device == DeviceChoice::Cpu {
        return Err(EngineError::input(format!("{FLAG}: kernels are tried on a GPU: give --device cuda:N")));
    }
    // A device that is not there is said, whoever waits for it; the work that may hang comes after.
    let target = CheckTarget::Device(device.open()?);
    end_with_parent();
    let trials = try_hopper(&target, HopperKernels::ALL, InputSize::Large, SEED).map_err(ModelError::from)?;
    let text = serde_json::to_string(&HopperVerdict::of(&trials))
        .map_err(|error| EngineError::failure(format!("the verdict has no JSON form: {error}")))?;
    print(&format!("{text}\n"))
}

/// Ends this process where standard input does: who has started it holds the other end, and writes nothing.
fn end_with_parent() {
    let wait = || {
        let mut input = std::io::stdin().lock();
        while input.read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        // At once: a device that hangs would keep what is to be done at a process's end.
        // SAFETY: ends the process, whatever its other threads do.
        unsafe { libc::_exit(1) }
    };
    let _ = thread::Builder::new().spawn(wait);
}
