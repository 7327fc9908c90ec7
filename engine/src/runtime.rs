//! What a command is given that is no part of a recipe.

use candle_core::{Device, DeviceLocation};

use crate::cli::Common;
use crate::error::Result;
use crate::progress::Verbosity;

/// Where to compute and how much to say.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where tensors live.
    pub device: Device,
    /// `cpu` or `cuda:N`.
    pub device_name: String,
    /// How much is said.
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
        Ok(Self { device, device_name, verbosity: verbosity(common) })
    }
}

/// `-q` and `-v`.
pub fn verbosity(common: &Common) -> Verbosity {
    match (common.quiet, common.verbose) {
        (true, _) => Verbosity::Quiet,
        (false, 0) => Verbosity::Normal,
        (false, _) => Verbosity::Verbose,
    }
}
