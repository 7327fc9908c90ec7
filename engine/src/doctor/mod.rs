//! `selfplay doctor`: what of this machine works, what does not, and what to do about it.
//!
//! ```text
//! finding    one thing that was looked at       processor, graphics, disk, network   those who look
//! ```
//!
//! Broken is only what every command needs (a folder that can be written, settings that read) or what was asked for
//! (`--device cuda:0`). What merely costs speed or reach is a warning.

mod disk;
mod finding;
mod graphics;
mod network;
mod processor;

pub(crate) use finding::{Finding, Health};

use crate::device::DeviceChoice;

/// Looks at everything. `device` is what `--device` asks for.
pub(crate) fn examine(device: DeviceChoice) -> Vec<Finding> {
    let mut findings = vec![processor::build(), processor::processor(), processor::memory()];
    findings.push(graphics::gpu(device));
    findings.extend(disk::findings());
    findings.extend(network::findings());
    findings
}
