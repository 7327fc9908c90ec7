//! A tensor of which a first part has memory, and more of it when it is wanted: nothing moves, so that whoever knows its
//! address (views, captured steps, kernels that run meanwhile) need not be told.
//!
//! On CUDA a range of addresses is reserved and memory is mapped to it piece by piece. Elsewhere the tensor is a zeroed
//! allocation, which the operating system gives memory where it is first written.

use candle_core::{DType, Device, Result, Tensor};

use super::Gpu;
#[cfg(feature = "cuda")]
use super::cuda_range::CudaRange;
use super::left_out::GpuMechanism;

/// A tensor \[most, row…] whose first rows have memory.
pub(crate) struct GrowingTensor {
    tensor: Tensor,
    #[cfg(feature = "cuda")]
    range: Option<CudaRange>,
    /// Bytes of a row.
    #[cfg(feature = "cuda")]
    row_bytes: usize,
}

impl GrowingTensor {
    /// Whether a device has such tensors.
    ///
    /// # Errors
    /// The error of the driver.
    pub(crate) fn is_supported(device: &Device) -> Result<bool> {
        if GpuMechanism::GrowingCache.is_left_out() && Gpu::at(device)?.is_some() {
            return Ok(false);
        }
        match device {
            Device::Cpu => Ok(true),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => CudaRange::is_supported(device),
            _ => Ok(false),
        }
    }

    /// A tensor \[most, row…] on a device that has such tensors. None of its rows may be used before [`GrowingTensor::grow_to`].
    ///
    /// # Errors
    /// No such range of addresses.
    pub(crate) fn new(most: usize, row: &[usize], dtype: DType, device: &Device) -> Result<Self> {
        let shape = [&[most][..], row].concat();
        #[cfg(feature = "cuda")]
        if let Device::Cuda(cuda) = device {
            let row_bytes = row.iter().product::<usize>() * dtype.size_in_bytes();
            let range = CudaRange::reserve(cuda, most * row_bytes)?;
            let tensor = range.tensor(shape.into(), dtype, device)?;
            return Ok(Self { tensor, range: Some(range), row_bytes });
        }
        Ok(Self {
            tensor: Tensor::zeros(shape, dtype, device)?,
            #[cfg(feature = "cuda")]
            range: None,
            #[cfg(feature = "cuda")]
            row_bytes: 0,
        })
    }

    /// The tensor.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Memory comes in pieces of so many rows.
    pub(crate) fn piece_rows(&self) -> usize {
        #[cfg(feature = "cuda")]
        if let Some(range) = &self.range {
            return range.granularity().div_ceil(self.row_bytes.max(1));
        }
        1
    }

    /// Gives the first `rows` rows memory; those that had none hold zeros, or what they held before [`GrowingTensor::shrink_to`].
    /// `false`, with nothing changed, where the device has no memory left.
    ///
    /// # Errors
    /// The error of the driver.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, clippy::needless_pass_by_ref_mut))]
    pub(crate) fn grow_to(&mut self, rows: usize) -> Result<bool> {
        #[cfg(feature = "cuda")]
        if let Some(range) = &mut self.range {
            return range.grow_to(rows * self.row_bytes);
        }
        debug_assert!(rows <= self.tensor.dims().first().copied().unwrap_or(0));
        Ok(true)
    }

    /// Takes back the memory of all pieces that begin at row `rows` or later, when the device is done with all that was started.
    ///
    /// # Errors
    /// The error of the driver.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps, clippy::needless_pass_by_ref_mut))]
    pub(crate) fn shrink_to(&mut self, rows: usize) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Some(range) = &mut self.range {
            return range.shrink_to(rows * self.row_bytes);
        }
        debug_assert!(rows <= self.tensor.dims().first().copied().unwrap_or(0));
        Ok(())
    }
}

#[cfg(feature = "cuda")]
impl Drop for GrowingTensor {
    fn drop(&mut self) {
        // The tensor must not free what is the range's.
        if self.range.is_some()
            && let Err(error) = super::cuda_range::let_go(&self.tensor)
        {
            tracing::debug!("a tensor over reserved addresses: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::address;

    #[test]
    fn an_address_stays_while_its_tensor_grows() {
        let mut growing = GrowingTensor::new(50, &[2, 3, 4], DType::F32, &Device::Cpu).unwrap();
        assert!(GrowingTensor::is_supported(&Device::Cpu).unwrap());
        assert_eq!((growing.tensor().dims(), growing.piece_rows()), (&[50, 2, 3, 4][..], 1));
        let before = address(growing.tensor()).unwrap();
        for rows in [3, 20, 50] {
            assert!(growing.grow_to(rows).unwrap());
            assert_eq!(address(growing.tensor()).unwrap(), before);
        }
        growing.shrink_to(0).unwrap();
        assert_eq!(address(growing.tensor()).unwrap(), before);
    }
}
