//! Page locks of CUDA: memory that is registered with the driver.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::cuda_backend::cudarc::driver::{CudaContext, sys};

use super::page_lock::PageLock;

/// Registered memory.
struct CudaPageLock {
    context: Arc<CudaContext>,
    host: u64,
}

impl PageLock for CudaPageLock {}

impl Drop for CudaPageLock {
    fn drop(&mut self) {
        // Binding tells of an earlier error first, once. The memory must be unlocked all the same: whoever has it next would find it
        // registered, and copies to it that do not wait.
        if self.context.bind_to_thread().is_err() {
            let _ = self.context.bind_to_thread();
        }
        // SAFETY: it was registered, once, and its owner has waited for all copies.
        let unlocked = unsafe { sys::cuMemHostUnregister(self.host as *mut c_void) }.result();
        if let Err(error) = unlocked {
            tracing::debug!("memory of the host stays page-locked: {error}");
        }
    }
}

/// As [`super::page_lock::PageLocker::lock`].
pub(super) fn lock(context: &Arc<CudaContext>, host: u64, bytes: usize) -> Option<Box<dyn PageLock>> {
    static WARNED: AtomicBool = AtomicBool::new(false);
    context.bind_to_thread().ok()?;
    // SAFETY: the memory is the caller's until the lock is dropped.
    match unsafe { sys::cuMemHostRegister_v2(host as *mut c_void, bytes, 0) }.result() {
        Ok(()) => Some(Box::new(CudaPageLock { context: context.clone(), host })),
        Err(error) => {
            if !WARNED.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "{bytes} bytes of the host's memory can't be page-locked ({error}): copies to and from the GPU are slower, results \
                     are the same"
                );
            }
            None
        }
    }
}
