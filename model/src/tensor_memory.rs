//! Memory of tensors that is given back while nobody needs their numbers.
//!
//! A tensor keeps its place, its shape and its views; only the numbers are gone, and whoever reads them gets an error. It is
//! for weights and gradients that other ranks keep in the meantime: a model's parameters stay the tensors that its maps know.

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor, bail};

/// Whether the tensor is all that its memory is of, and the memory is there: it may be given back.
pub fn is_whole(tensor: &Tensor) -> bool {
    begins_its_memory(tensor) && memory_of(tensor) == Some(tensor.elem_count())
}

/// Whether the tensor is all that its memory is of, be it there or given back.
pub fn has_its_own(tensor: &Tensor) -> bool {
    // Of a tensor among others the memory has more numbers; of one that was given back, none.
    begins_its_memory(tensor) && memory_of(tensor).is_some_and(|numbers| numbers <= tensor.elem_count())
}

fn begins_its_memory(tensor: &Tensor) -> bool {
    tensor.layout().contiguous_offsets() == Some((0, tensor.elem_count()))
}

/// How many numbers the memory of a tensor has; `None` of a dtype that no weights or gradients have.
fn memory_of(tensor: &Tensor) -> Option<usize> {
    let (storage, _) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => length(storage),
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => gpu::length(storage),
        _ => None,
    }
}

/// Gives the memory of a tensor back, that of its views with it. Nothing is done where it is not there.
///
/// # Errors
/// A tensor of a dtype that no weights or gradients have.
pub fn release(tensor: &Tensor) -> Result<()> {
    tensor.inplace_op1(&Resize { numbers: 0 })
}

/// Gives a tensor memory again: zeros, whatever was there.
///
/// # Errors
/// As [`release`]; out of memory on the device.
pub fn provide(tensor: &Tensor) -> Result<()> {
    tensor.inplace_op1(&Resize { numbers: tensor.elem_count() })
}

/// Replaces what a tensor's memory holds by so many zeros.
struct Resize {
    numbers: usize,
}

fn length(storage: &CpuStorage) -> Option<usize> {
    match storage {
        CpuStorage::F32(numbers) => Some(numbers.len()),
        CpuStorage::F64(numbers) => Some(numbers.len()),
        CpuStorage::BF16(numbers) => Some(numbers.len()),
        CpuStorage::F16(numbers) => Some(numbers.len()),
        _ => None,
    }
}

impl InplaceOp1 for Resize {
    fn name(&self) -> &'static str {
        "tensor memory"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _layout: &Layout) -> Result<()> {
        // The old memory goes before the new one comes.
        match storage {
            CpuStorage::F32(numbers) => renew(numbers, self.numbers),
            CpuStorage::F64(numbers) => renew(numbers, self.numbers),
            CpuStorage::BF16(numbers) => renew(numbers, self.numbers),
            CpuStorage::F16(numbers) => renew(numbers, self.numbers),
            _ => bail!("the memory of a tensor of this dtype can't be given back"),
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut candle_core::CudaStorage, _layout: &Layout) -> Result<()> {
        gpu::renew(storage, self.numbers)
    }
}

fn renew<T: Clone + Default>(numbers: &mut Vec<T>, count: usize) {
    *numbers = Vec::new();
    *numbers = vec![T::default(); count];
}

#[cfg(feature = "cuda")]
mod gpu {
    //! The same on CUDA. An allocation and a free are in the order of the device's one stream, so that kernels that were
    //! launched before still have what they read.

    use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
    use candle_core::cuda_backend::{CudaDevice, CudaStorage, CudaStorageSlice};
    use candle_core::{Result, bail};

    pub(super) fn length(storage: &CudaStorage) -> Option<usize> {
        match &storage.slice {
            CudaStorageSlice::F32(numbers) => Some(numbers.len()),
            CudaStorageSlice::F64(numbers) => Some(numbers.len()),
            CudaStorageSlice::BF16(numbers) => Some(numbers.len()),
            CudaStorageSlice::F16(numbers) => Some(numbers.len()),
            _ => None,
        }
    }

    /// The old memory goes before the new one comes. A driver refuses to allocate nothing: one number stands for it.
    fn replace<T: DeviceRepr + ValidAsZeroBits>(
        numbers: &mut CudaSlice<T>,
        device: &CudaDevice,
        count: usize,
    ) -> Result<()> {
        *numbers = device.alloc_zeros(1)?;
        if count > 0 {
            *numbers = device.alloc_zeros(count)?;
        }
        Ok(())
    }

    pub(super) fn renew(storage: &mut CudaStorage, count: usize) -> Result<()> {
        let device = storage.device.clone();
        match &mut storage.slice {
            CudaStorageSlice::F32(numbers) => replace(numbers, &device, count)?,
            CudaStorageSlice::F64(numbers) => replace(numbers, &device, count)?,
            CudaStorageSlice::BF16(numbers) => replace(numbers, &device, count)?,
            CudaStorageSlice::F16(numbers) => replace(numbers, &device, count)?,
            _ => bail!("the memory of a tensor of this dtype can't be given back"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn views_lose_and_get_back_their_numbers_with_the_whole() {
        let whole =
            Tensor::from_vec((0..12).map(|i| i as f32).collect::<Vec<_>>(), (4, 3), &Device::Cpu).unwrap();
        let view = whole.narrow(0, 1, 2).unwrap();
        let first = whole.narrow(0, 0, 2).unwrap();
        assert!(is_whole(&whole) && !is_whole(&view) && !is_whole(&first));
        assert!(has_its_own(&whole) && !has_its_own(&view) && !has_its_own(&first));
        let values = |tensor: &Tensor| crate::cpu::storage::with_slice(tensor, |x: &[f32]| x.to_vec());
        release(&whole).unwrap();
        let refused = values(&view).unwrap_err().to_string();
        assert!(refused.contains("given back"), "{refused}");
        assert!(crate::cpu::storage::with_slice_mut(&view, |_: &mut [f32]| ()).is_err());
        assert_eq!(view.dims(), [2, 3]);
        assert!(!is_whole(&whole) && has_its_own(&whole) && !has_its_own(&view));
        provide(&whole).unwrap();
        assert_eq!(values(&view).unwrap(), [0.0; 6]);
        whole.slice_set(&Tensor::ones((1, 3), candle_core::DType::F32, &Device::Cpu).unwrap(), 0, 2).unwrap();
        assert_eq!(values(&view).unwrap(), [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    }
}
