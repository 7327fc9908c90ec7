//! A recording that an emulator replays, as strict as a GPU's.
//!
//! A GPU's recording owns the memory that it asks for: the next one has the same bytes, and what they held is gone. While one is
//! made, nothing is copied or waited for: CUDA refuses that, or would copy from wherever the host's memory was at every replay.

use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};

use super::address;
use super::tensor_copies::bytes_of;

thread_local! {
    /// Tensors that an emulated recording makes; `None` while nothing is recorded.
    static RECORDED: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) };
}

/// This thread records from now on.
pub(super) fn begin() {
    RECORDED.set(Some(Vec::new()));
}

/// Ends it; the tensors of the host that were made meanwhile.
pub(super) fn end() -> Vec<Tensor> {
    RECORDED.take().unwrap_or_default()
}

/// Takes in a tensor that was made, where a recording runs.
pub(super) fn keep(tensor: &Tensor) {
    RECORDED.with_borrow_mut(|recorded| recorded.iter_mut().for_each(|all| all.push(tensor.clone())));
}

/// Refuses what no recording can have.
///
/// # Errors
/// This thread records.
pub(super) fn refuse(what: &str) -> Result<()> {
    match RECORDED.with_borrow(Option::is_some) {
        true => bail!("{what} while a step is recorded"),
        false => Ok(()),
    }
}

/// Fills tensors of the host with bits that are no number of any dtype.
///
/// # Errors
/// A tensor that is not contiguous.
pub(super) fn poison(tensors: &[Tensor]) -> Result<()> {
    for tensor in tensors {
        let (start, bytes) = (address(tensor)? as *mut u8, bytes_of(tensor));
        // SAFETY: the memory is a tensor's that the recording keeps, on the host; only its kernels may use it, and none runs in this
        // thread now.
        unsafe { start.write_bytes(0xff, bytes) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{DType, Device};

    use super::*;
    use crate::gpu::{
        Captured, Gemm, Gpu, Launch, Launcher, PageLocker, emulate, host_copies, memory, take_peak,
    };

    /// A device that does nothing.
    struct IdleDevice;

    impl PageLocker for IdleDevice {}

    impl Captured for IdleDevice {
        fn replay(&self) -> Result<()> {
            Ok(())
        }
    }

    impl Launcher for IdleDevice {
        fn launch(&self, _: &Launch) -> Result<()> {
            Ok(())
        }

        fn gemm(&self, _: &Gemm) -> Result<()> {
            Ok(())
        }

        fn begin_capture(&self) -> Result<()> {
            Ok(())
        }

        fn end_capture(&self) -> Result<Box<dyn Captured>> {
            Ok(Box::new(Self))
        }
    }

    #[test]
    fn a_recording_copies_nothing_and_its_memory_keeps_nothing() {
        let _gpu = emulate(Arc::new(IdleDevice));
        let gpu = Gpu::at(&Device::Cpu).unwrap().unwrap();
        let (mut made, mut room) = (None, gpu.staging(8).unwrap());
        let before = gpu.upload(&[1, 2]).unwrap();
        let graph = gpu
            .capture(|| {
                let refused = [
                    gpu.upload(&[1]).err(),
                    gpu.staging(8).err(),
                    gpu.mark().err(),
                    gpu.copy_in(&room, 0..8, address(&before)?).err(),
                    gpu.copy_out(&before, &mut room).err(),
                    gpu.capture(|| Ok(())).err(),
                    memory(&Device::Cpu).err(),
                    take_peak(&Device::Cpu).err(),
                    host_copies(&Device::Cpu).err(),
                ];
                for error in refused {
                    let error = error.unwrap().to_string();
                    assert!(error.contains("while a step is recorded"), "{error}");
                }
                let fresh = gpu.unwritten(3, DType::F32)?;
                fresh.slice_set(&Tensor::ones(3, DType::F32, &Device::Cpu)?, 0, 0)?;
                made = Some(fresh);
                Ok(())
            })
            .unwrap();
        let made = made.unwrap();
        assert_eq!(made.to_vec1::<f32>().unwrap(), [1.0; 3]);
        graph.replay().unwrap();
        assert!(made.to_vec1::<f32>().unwrap().iter().all(|x| x.is_nan()));
        // What was there before is as it was, and copies are allowed again.
        assert_eq!(before.to_vec1::<u32>().unwrap(), [1, 2]);
        assert!(gpu.upload(&[3]).is_ok() && memory(&Device::Cpu).unwrap().is_none());
    }
}
