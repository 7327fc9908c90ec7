//! What a GPU's memory holds; of other devices, and in a build without CUDA, nobody tells.

use candle_core::{Device, Result};

/// What a GPU's memory holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// All there is.
    pub total: usize,
    /// What tensors could still take: what no process has, and what this one's pool keeps for nobody.
    pub free: usize,
}

/// The memory of a GPU, when all that was started is done; `None` for another device.
///
/// # Errors
/// What the driver says.
pub fn memory(device: &Device) -> Result<Option<Memory>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::cuda::memory(cuda).map(Some),
        _ => Ok(None),
    }
}

/// The most bytes that tensors took since this was last asked; `None` where that is not counted.
///
/// # Errors
/// What the driver says.
pub fn take_peak(device: &Device) -> Result<Option<usize>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => super::cuda::take_peak(cuda),
        _ => Ok(None),
    }
}
