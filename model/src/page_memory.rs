//! Memory of a cache's pages that grows where it stands: every tensor of every layer has addresses for as many pages as there
//! may ever be, and memory for those that there are.

use candle_core::{DType, Device, Result, Tensor};

use crate::gpu::GrowingTensor;

/// The memory of a cache's tensors.
pub(crate) struct PageMemory {
    device: Device,
    most: usize,
    tensors: Vec<GrowingTensor>,
}

impl PageMemory {
    /// No tensors yet, for `most` pages; `None` where the device can't have such memory.
    ///
    /// # Errors
    /// The error of the driver.
    pub(crate) fn new(most: usize, device: &Device) -> Result<Option<Self>> {
        let fresh = || Self { device: device.clone(), most, tensors: Vec::new() };
        Ok(GrowingTensor::is_supported(device)?.then(fresh))
    }

    /// Another tensor \[most, page…], none of whose pages has memory.
    ///
    /// # Errors
    /// No such addresses.
    pub(crate) fn tensor(&mut self, page: &[usize], dtype: DType) -> Result<Tensor> {
        let growing = GrowingTensor::new(self.most, page, dtype, &self.device)?;
        let tensor = growing.tensor().clone();
        self.tensors.push(growing);
        Ok(tensor)
    }

    /// Gives `pages` pages memory where `now` have it. Returns how many have it then: a few more, so that no memory is left over;
    /// or `now`, where there is none for so many.
    ///
    /// # Errors
    /// The error of the driver.
    pub(crate) fn grow(&mut self, now: usize, pages: usize) -> Result<usize> {
        if pages <= now || pages > self.most {
            return Ok(now);
        }
        // A piece of the tensor with the largest pages: those of the others are there for more pages then.
        let piece = self.tensors.iter().map(GrowingTensor::piece_rows).min().unwrap_or(1);
        let wanted = pages.next_multiple_of(piece).min(self.most);
        for place in 0..self.tensors.len() {
            if !self.tensors[place].grow_to(wanted)? {
                self.tensors[..place].iter_mut().try_for_each(|tensor| tensor.shrink_to(now))?;
                return Ok(now);
            }
        }
        Ok(wanted)
    }

    /// Takes the memory of all pages back, when the device is done with all that was started; the addresses stay.
    ///
    /// # Errors
    /// The error of the driver.
    pub(crate) fn release(&mut self) -> Result<()> {
        self.tensors.iter_mut().try_for_each(|tensor| tensor.shrink_to(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_memory_up_to_the_last_address() {
        let mut memory = PageMemory::new(20, &Device::Cpu).unwrap().unwrap();
        let tensor = memory.tensor(&[2, 16, 4], DType::F32).unwrap();
        assert_eq!(tensor.dims(), [20, 2, 16, 4]);
        assert_eq!([3, 20, 21, 5].map(|pages| memory.grow(4, pages).unwrap()), [4, 20, 4, 5]);
        memory.release().unwrap();
    }
}
