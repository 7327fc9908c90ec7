//! NVIDIA GPUs: driver, devices, and whether this build can use them.

use selfplay_model::gpu;

use super::finding::{Finding, Health};
use crate::console::units::size;
use crate::device::DeviceChoice;
use crate::process::nvidia_driver::NvidiaDriver;

/// How a program with CUDA is built.
const BUILD: &str = "cargo build --release --features cuda (needs the CUDA toolkit)";

/// The device that is looked at: the one that is asked for, else the first GPU.
pub(super) fn examined(asked: DeviceChoice) -> DeviceChoice {
    if asked == DeviceChoice::Cpu { DeviceChoice::Cuda(0) } else { asked }
}

/// The GPU that `asked` names, else the first.
pub(super) fn gpu(asked: DeviceChoice) -> Finding {
    let present = NvidiaDriver::of_machine();
    let wanted = asked != DeviceChoice::Cpu;
    let trouble = if wanted { Health::Broken } else { Health::Warning };
    if !cfg!(feature = "cuda") {
        return match present {
            Some(driver) => Finding::of(
                "GPU",
                trouble,
                format!("{}; this build has no CUDA", driver.title()),
                format!("to use it: {BUILD}"),
            ),
            None if wanted => {
                Finding::of("GPU", trouble, format!("{asked}: no driver, and no CUDA in this build"), BUILD)
            }
            None => Finding::ok("GPU", "none: everything is computed on the processor"),
        };
    }
    let device = examined(asked);
    match (device.open(), &present) {
        (Ok(open), _) => {
            let memory = gpu::memory(&open).ok().flatten();
            let memory = memory.map_or(String::new(), |memory| format!(", {}", size(memory.total as u64)));
            let title = present.map_or(String::new(), |driver| format!(", {}", driver.title()));
            Finding::ok("GPU", format!("{device} opens{memory}{title}"))
        }
        (Err(_), None) if !wanted => Finding::of(
            "GPU",
            Health::Note,
            "no NVIDIA driver: everything is computed on the processor",
            "this build could use a GPU: install its driver, then nvidia-smi lists it",
        ),
        (Err(error), _) => {
            Finding::of("GPU", trouble, error.to_string(), "nvidia-smi says whether the driver works")
        }
    }
}
