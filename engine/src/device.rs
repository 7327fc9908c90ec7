//! `--device`: where tensors live. Not part of a recipe, because results must not depend on it but for rounding.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, DeviceLocation};

use crate::error::{EngineError, Result};
use crate::ranks::rank::Rank;

/// A device as named on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its number.
    Cuda(usize),
    /// The NVIDIA GPU of this rank: of a process by itself the first.
    CudaOfRank,
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
            Self::Cuda(_) | Self::CudaOfRank => Err(EngineError::input(format!(
                "--device {self}: this binary was built without CUDA: cargo build --release --features cuda"
            ))),
            #[cfg(feature = "cuda")]
            Self::Cuda(number) => open_gpu(self, number),
            #[cfg(feature = "cuda")]
            Self::CudaOfRank => open_gpu(self, Rank::of_process().gpu()),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_gpu(choice: DeviceChoice, number: usize) -> Result<Device> {
    selfplay_model::gpu::open(number).map_err(|error| {
        // One line: CUDA's message begins with the error's name; a backtrace may follow.
        let error = error.to_string();
        let first = error.lines().next().unwrap_or_default();
        EngineError::failure(format!(
            "--device {choice}: no usable GPU: {first}; nvidia-smi lists the GPUs{}",
            of_rank(choice, Rank::of_process())
        ))
    })
}

/// What may be wrong where a rank among several finds no GPU of its own.
#[cfg(any(test, feature = "cuda"))]
fn of_rank(choice: DeviceChoice, rank: &Rank) -> String {
    if choice != DeviceChoice::CudaOfRank || rank.local_world == 1 {
        return String::new();
    }
    format!(
        ". This is process {} of {} on this machine (counted from 0), and each takes the GPU of its number: start at most as many as there \
         are GPUs, or name one for all of them, as in --device cuda:0",
        rank.local_rank, rank.local_world
    )
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::CudaOfRank => write!(f, "cuda:{}", Rank::of_process().gpu()),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text.split_once(':') {
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::CudaOfRank),
            Some(("cuda", number)) => number.parse().map(Self::Cuda).map_err(|_| wanted()),
            _ => Err(wanted()),
        }
    }
}

fn wanted() -> String {
    "expected cpu, cuda or cuda:N, as in cuda:0".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for text in ["cpu", "cuda:3"] {
            assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::CudaOfRank));
        assert_eq!(DeviceChoice::CudaOfRank.to_string(), "cuda:0");
        for text in ["gpu", "cuda:", "cuda:x", "cpu:0"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
    }

    #[test]
    fn more_ranks_than_gpus_are_told() {
        let rank = Rank { rank: 5, world: 8, local_rank: 1, local_world: 2, ..Rank::ALONE };
        let text = of_rank(DeviceChoice::CudaOfRank, &rank);
        assert!(text.contains("process 1 of 2") && text.contains("--device cuda:0"), "{text}");
        assert_eq!(of_rank(DeviceChoice::Cuda(0), &rank), "");
        assert_eq!(of_rank(DeviceChoice::CudaOfRank, &Rank::ALONE), "");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_cuda_the_build_command_is_named() {
        let error = DeviceChoice::Cuda(0).open().unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("cargo build --release --features cuda"));
    }
}
