//! `selfplay doctor`: what of this machine works, what does not, and what to do about it.
//!
//! ```text
//! finding    one thing that was looked at       processor, graphics, kernels, disk, network   those who look
//! ```
//!
//! Broken is only what every command needs (a folder that can be written, settings that read) or what was asked for
//! (`--device cuda:0`). What merely costs speed or reach is a warning.

mod disk;
mod finding;
mod graphics;
mod kernels;
mod network;
mod processor;

pub(crate) use finding::{Finding, Health};

use crate::device::DeviceChoice;
use crate::error::Result;

/// Looks at everything. `device` is what `--device` asks for; with `tries` its kernels are tried again.
///
/// # Errors
/// A signal while they are tried.
pub(crate) fn examine(device: DeviceChoice, tries: bool) -> Result<Vec<Finding>> {
    let mut findings = vec![processor::build(), processor::processor(), processor::memory()];
    findings.push(graphics::gpu(device));
    findings.extend(kernels::kernels(device, tries)?);
    findings.extend(disk::findings());
    findings.extend(network::findings());
    Ok(findings)
}
