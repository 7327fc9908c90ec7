//! Copies of tensors between a device and the host, beside the device's work, and tensors whose pages are locked for it.

use candle_core::{Device, Result, Tensor, bail};

use super::host_copies::{CopyMark, CopyStart, HostCopies, PlainCopies};
use super::page_lock::{PageLock, PageLocker, locked};
use super::{Gpu, address, recorded_memory};

/// What copies between the memory of `device` and the host's. Where there is no GPU both are one memory, and a copy is done when
/// the call returns.
///
/// # Errors
/// A device that this build has no kernels for, or what it says.
pub fn host_copies(device: &Device) -> Result<Box<dyn HostCopies>> {
    recorded_memory::refuse("a copy beside the work")?;
    match Gpu::at(device)? {
        Some(gpu) => gpu.launcher.copies(),
        None => Ok(Box::new(PlainCopies)),
    }
}

/// A contiguous tensor of the host with its pages locked where they can be.
pub struct LockedTensor {
    /// Unlocked before the tensor's memory goes.
    lock: Option<Box<dyn PageLock>>,
    tensor: Tensor,
}

impl LockedTensor {
    /// Bytes from which on pages are locked: smaller memories may share pages with others.
    const LEAST: usize = 1 << 20;

    /// Locks the pages of a tensor of the host.
    ///
    /// # Errors
    /// A tensor of a device, or one that is not contiguous.
    pub fn new(locker: &dyn PageLocker, tensor: Tensor) -> Result<Self> {
        if !tensor.device().is_cpu() {
            bail!("the pages of {:?} are no memory of the host", tensor.device().location())
        }
        let bytes = bytes_of(&tensor);
        let lock = match bytes >= Self::LEAST {
            true => locked(locker, address(&tensor)?, bytes),
            false => None,
        };
        Ok(Self { lock, tensor })
    }

    /// Whether its pages are locked.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

/// Bytes of a tensor's numbers.
pub fn bytes_of(tensor: &Tensor) -> usize {
    tensor.elem_count() * tensor.dtype().size_in_bytes()
}

/// Starts a copy of a whole contiguous tensor of the device over one of the host of as many bytes.
///
/// # Errors
/// Tensors that are not; what the device says.
pub fn copy_to_host(
    copies: &dyn HostCopies,
    device: &Tensor,
    host: &Tensor,
    start: CopyStart,
) -> Result<Box<dyn CopyMark>> {
    same_size(device, host)?;
    copies.to_host(address(device)?, address(host)?, bytes_of(host), start)
}

/// As [`copy_to_host`], the other way.
///
/// # Errors
/// As [`copy_to_host`].
pub fn copy_to_device(
    copies: &dyn HostCopies,
    host: &Tensor,
    device: &Tensor,
    start: CopyStart,
) -> Result<Box<dyn CopyMark>> {
    same_size(device, host)?;
    copies.to_device(address(host)?, address(device)?, bytes_of(host), start)
}

fn same_size(one: &Tensor, other: &Tensor) -> Result<()> {
    if bytes_of(one) != bytes_of(other) {
        bail!("no copy of {:?} {:?} to {:?} {:?}", one.dtype(), one.dims(), other.dtype(), other.dims())
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::CopyStart::{AfterWork, Now};
    use super::*;

    #[test]
    fn copies_go_there_and_back_and_other_shapes_are_refused() {
        let device = Tensor::arange(0f32, 12.0, &Device::Cpu).unwrap();
        let host = Tensor::zeros(12, DType::F32, &Device::Cpu).unwrap();
        let copies = host_copies(&Device::Cpu).unwrap();
        copy_to_host(&*copies, &device, &host, AfterWork).unwrap().wait().unwrap();
        assert_eq!(host.to_vec1::<f32>().unwrap(), device.to_vec1::<f32>().unwrap());
        let part = device.narrow(0, 4, 2).unwrap();
        let two = Tensor::from_vec(vec![-1f32, -2.0], 2, &Device::Cpu).unwrap();
        copy_to_device(&*copies, &two, &part, Now).unwrap().device_waits().unwrap();
        assert_eq!(device.narrow(0, 3, 4).unwrap().to_vec1::<f32>().unwrap(), [3.0, -1.0, -2.0, 6.0]);
        assert!(copy_to_host(&*copies, &device, &two, Now).is_err());
        assert!(copy_to_host(&*copies, &part, &two.to_dtype(DType::F64).unwrap(), Now).is_err());
        let locked = LockedTensor::new(&*copies, host.clone()).unwrap();
        assert_eq!(locked.tensor().dims(), [12]);
    }
}
