//! Free and total memory of a GPU; `None` for other devices and in builds without CUDA.

use candle_core::{Device, Result};

use super::recorded_memory;

/// A GPU's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct GpuMemory {
    /// All there is.
    pub total: usize,
    /// What tensors can still take: what no process has, and what this process's pool keeps unused.
    pub free: usize,
}

/// The memory of a GPU, when all that was started is done; `None` for another device.
///
/// # Errors
/// The error of the driver.
pub fn memory(device: &Device) -> Result<Option<GpuMemory>> {
    recorded_memory::refuse("a look at the memory")?;
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::cuda::memory(cuda).map(Some),
        _ => Ok(None),
    }
}

/// As [`memory`], without waiting: what running work is yet to give back is not free.
///
/// # Errors
/// The error of the driver.
pub fn memory_now(device: &Device) -> Result<Option<GpuMemory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::cuda::memory_now(cuda).map(Some),
        _ => Ok(None),
    }
}

/// The peak of the tensors' bytes since the last call; `None` where it is not counted.
///
/// # Errors
/// The error of the driver.
pub fn take_peak(device: &Device) -> Result<Option<usize>> {
    recorded_memory::refuse("a look at the memory")?;
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::cuda::take_peak(cuda),
        _ => Ok(None),
    }
}
