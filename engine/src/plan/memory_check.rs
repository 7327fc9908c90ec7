//! Refuses allocations that are larger than the memory of the device: a failed allocation would end the process without a
//! message, and a wrong configuration can amount to terabytes.

use selfplay_model::Architecture;

use crate::console::units::size;
use crate::device::DeviceChoice;
use crate::plan::device::{self, AvailableMemory};

/// Why `bytes` for `what` cannot be had on a device; `None` where they can, or where its memory is not known.
pub fn too_large(what: &str, bytes: u64, device: DeviceChoice) -> Option<String> {
    let mut memory = device::memory(None, device)?;
    if let Some(bound) = address_space().filter(|&bound| device == DeviceChoice::Cpu && bound < memory.bytes)
    {
        memory =
            AvailableMemory { bytes: bound, owner: "this process's address space (ulimit -v)".to_owned() };
    }
    (bytes > memory.bytes).then(|| {
        format!("{what} needs {}, more than the {} of {}", size(bytes), size(memory.bytes), memory.owner)
    })
}

/// RLIMIT_AS, where there is one.
fn address_space() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call fills in the structure that it is given.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } == 0;
    (known && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Bytes of a model's random weights, in the widest dtype that they are made in.
pub fn random_weights(model: &Architecture) -> u64 {
    (model.parameter_count() as u64).saturating_mul(4)
}
