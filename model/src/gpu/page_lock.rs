//! Page-locked memory of the host: a device reads and writes it by itself, at the bus's full rate, while the host goes on. The one door to
//! it, for the buffers that copies go through (`staging.rs`) and for tensors that stay on the host (`tensor_copies.rs`).

use super::left_out::GpuMechanism;

/// Locked pages, until this is dropped. Their owner has waited for all copies by then.
pub trait PageLock: Send + Sync {}

/// What locks pages.
pub trait PageLocker {
    /// Locks the pages of `bytes` bytes of the host's memory, of which no other lock has a part; `None` where the system refuses, or copies
    /// gain nothing by it: they are right all the same.
    fn lock(&self, _host: u64, _bytes: usize) -> Option<Box<dyn PageLock>> {
        None
    }
}

/// [`PageLocker::lock`], where locks are not left out.
pub(super) fn locked(locker: &dyn PageLocker, host: u64, bytes: usize) -> Option<Box<dyn PageLock>> {
    match GpuMechanism::PageLocks.is_left_out() {
        true => None,
        false => locker.lock(host, bytes),
    }
}
