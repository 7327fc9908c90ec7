//! `--device`: where tensors live. Not part of a recipe, because results must not depend on it but for rounding.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use crate::error::{EngineError, Result};

/// A device as named on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
}

impl DeviceChoice {
    /// The choice that an open device is of.
    pub fn of(device: &Device) -> Self {
        match device.location() {
            DeviceLocation::Cuda { gpu_id } => Self::Cuda(gpu_id),
            DeviceLocation::Cpu | DeviceLocation::Metal { .. } => Self::Cpu,
        }
    }

    /// Opens the device.
    ///
    /// # Errors
    /// Where this binary was built without CUDA (status 2), or the GPU is not there (status 1).
    pub fn open(self) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(EngineError::input(format!(
                "--device {self}: this binary was built without CUDA: cargo build --release --features cuda"
            ))),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => selfplay_model::gpu::open(number).map_err(|error| {
                // One line: CUDA's message begins with the error's name; a backtrace may follow.
                let error = error.to_string();
                let first = error.lines().next().unwrap_or_default();
                EngineError::failure(format!(
                    "--device {self}: no usable GPU: {first}; nvidia-smi lists the GPUs"
                ))
            }),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| wanted()),
            _ => Err(wanted()),
        }
    }
}

fn wanted() -> String {
    "expected cpu or cuda:N, as in cuda:0".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for text in ["cpu", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_build_command_is_named() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("cargo build --release --features cuda"));
    }
}
