//! Copies beside the device's work on CUDA: a stream for each direction, ordered by events against the one that computes.

use std::sync::Arc;

use candle_core::Result;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{CudaContext, CudaEvent, CudaStream, result};

use super::cuda_page_lock;
use super::host_copies::{CopyMark, CopyStart, HostCopies};
use super::left_out::GpuMechanism;
use super::page_lock::{PageLock, PageLocker};

/// The streams of a device.
pub(super) struct CudaCopies {
    context: Arc<CudaContext>,
    /// All of the device's other work.
    work: Arc<CudaStream>,
    down: Arc<CudaStream>,
    up: Arc<CudaStream>,
}

impl CudaCopies {
    /// # Errors
    /// What the driver says.
    pub(super) fn beside(work: &Arc<CudaStream>) -> Result<Self> {
        let context = work.context().clone();
        let (down, up) = match GpuMechanism::CopiesBeside.is_left_out() {
            true => (work.clone(), work.clone()),
            false => (context.new_stream().w()?, context.new_stream().w()?),
        };
        Ok(Self { context, work: work.clone(), down, up })
    }

    /// Has a copy's stream wait for all work that was started, if the copy is to.
    fn begin(&self, copies: &CudaStream, start: CopyStart) -> Result<()> {
        self.context.bind_to_thread().w()?;
        match start {
            CopyStart::AfterWork => copies.wait(&self.work.record_event(None).w()?).w(),
            CopyStart::Now => Ok(()),
        }
    }

    fn mark(&self, copies: &CudaStream) -> Result<Box<dyn CopyMark>> {
        let done = copies.record_event(None).w()?;
        Ok(Box::new(CudaCopyMark { done, work: self.work.clone() }))
    }
}

struct CudaCopyMark {
    done: CudaEvent,
    work: Arc<CudaStream>,
}

impl CopyMark for CudaCopyMark {
    fn wait(&self) -> Result<()> {
        self.done.synchronize().w()
    }

    fn device_waits(&self) -> Result<()> {
        self.work.wait(&self.done).w()
    }
}

impl PageLocker for CudaCopies {
    fn lock(&self, host: u64, bytes: usize) -> Option<Box<dyn PageLock>> {
        cuda_page_lock::lock(&self.context, host, bytes)
    }
}

impl HostCopies for CudaCopies {
    fn to_host(&self, device: u64, host: u64, bytes: usize, start: CopyStart) -> Result<Box<dyn CopyMark>> {
        self.begin(&self.down, start)?;
        // SAFETY: the caller keeps both memories, and reads the host's only after the mark.
        unsafe {
            let to = std::slice::from_raw_parts_mut(host as *mut u8, bytes);
            result::memcpy_dtoh_async(to, device, self.down.cu_stream())
        }
        .w()?;
        self.mark(&self.down)
    }

    fn to_device(&self, host: u64, device: u64, bytes: usize, start: CopyStart) -> Result<Box<dyn CopyMark>> {
        self.begin(&self.up, start)?;
        // SAFETY: as above.
        unsafe {
            let from = std::slice::from_raw_parts(host as *const u8, bytes);
            result::memcpy_htod_async(device, from, self.up.cu_stream())
        }
        .w()?;
        self.mark(&self.up)
    }

    fn work_mark(&self) -> Result<Box<dyn CopyMark>> {
        self.context.bind_to_thread().w()?;
        self.mark(&self.work)
    }

    fn finish(&self) -> Result<()> {
        self.down.synchronize().w()?;
        self.up.synchronize().w()
    }
}
