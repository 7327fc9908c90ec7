//! What a command is given that is no part of a recipe.

use candle_core::{Device, DeviceLocation};
use selfplay_model::ModelError;
use selfplay_model::gpu::memory;

use crate::console::progress::Verbosity;
use crate::error::Result;
use crate::flags::Common;

/// Where to compute and how much to print.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where tensors live.
    pub device: Device,
    /// `cpu` or `cuda:N`.
    pub device_name: String,
    /// How much is printed.
    pub verbosity: Verbosity,
}

impl Runtime {
    /// From the flags that every command takes.
    ///
    /// # Errors
    /// When the device is not there.
    pub fn open(common: &Common) -> Result<Self> {
        let device = common.device.open()?;
        let device_name = match device.location() {
            DeviceLocation::Cpu => "cpu".to_owned(),
            DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
            DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
        };
        Ok(Self { device, device_name, verbosity: common.verbosity() })
    }

    /// Whether a GPU has enough free memory for so many bytes of weights and for computing with them. A CPU's memory is shared with
    /// everything else, and what was read from disk comes back soon: there nothing is kept ahead.
    ///
    /// # Errors
    /// An error of the device.
    pub fn has_room(&self, bytes: u64) -> std::result::Result<bool, ModelError> {
        /// Bytes for what a pass computes.
        const AT_WORK: u64 = 8 << 30;
        Ok(memory(&self.device)?.is_some_and(|memory| memory.free as u64 >= bytes.saturating_add(AT_WORK)))
    }
}
