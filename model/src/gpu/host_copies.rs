//! Copies between a device's memory and the host's that run beside the device's work, by addresses alone.
//!
//! A copy begins when all work that was started before it is done: what it reads is then written, and what it overwrites is no
//! longer read. One whose caller has seen to that by itself may begin at once ([`CopyStart`]), however much work was started in
//! the meantime. Work that is started later does not wait for either, unless [`CopyMark::device_waits`] says so. Whoever asked for
//! a copy keeps both memories until it is done. Copies from and to locked pages (`page_lock.rs`) alone run beside the host's work too.

use candle_core::Result;

use super::page_lock::PageLocker;

/// When a copy begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyStart {
    /// When all work that was started before is done.
    AfterWork,
    /// At once: no work that is under way writes what it reads, or uses what it writes.
    Now,
}

/// A copy that was started, or work.
pub trait CopyMark: Send + Sync {
    /// Waits until it is done.
    ///
    /// # Errors
    /// What the device says.
    fn wait(&self) -> Result<()>;

    /// Has all work that is started on the device from now on wait for it.
    ///
    /// # Errors
    /// What the device says.
    fn device_waits(&self) -> Result<()>;
}

/// What copies between a device and the host.
pub trait HostCopies: PageLocker + Send {
    /// Starts a copy from the device to the host.
    ///
    /// # Errors
    /// What the device says.
    fn to_host(&self, device: u64, host: u64, bytes: usize, start: CopyStart) -> Result<Box<dyn CopyMark>>;

    /// Starts a copy from the host to the device.
    ///
    /// # Errors
    /// What the device says.
    fn to_device(&self, host: u64, device: u64, bytes: usize, start: CopyStart) -> Result<Box<dyn CopyMark>>;

    /// A mark of all work that was started on the device until now.
    ///
    /// # Errors
    /// What the device says.
    fn work_mark(&self) -> Result<Box<dyn CopyMark>>;

    /// Waits for all copies that were started: before memory goes that an error has left one on the way to.
    ///
    /// # Errors
    /// What the device says.
    fn finish(&self) -> Result<()>;
}

/// Copies within one memory, where work is done when its call returns.
pub struct PlainCopies;

/// A copy that is done.
pub struct CopyDone;

impl CopyMark for CopyDone {
    fn wait(&self) -> Result<()> {
        Ok(())
    }

    fn device_waits(&self) -> Result<()> {
        Ok(())
    }
}

impl PlainCopies {
    fn copy(from: u64, to: u64, bytes: usize) -> Box<dyn CopyMark> {
        // SAFETY: the caller vouches for both memories, as to a GPU; a tensor is not copied onto a part of itself.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Box::new(CopyDone)
    }
}

impl PageLocker for PlainCopies {}

impl HostCopies for PlainCopies {
    fn to_host(&self, device: u64, host: u64, bytes: usize, _start: CopyStart) -> Result<Box<dyn CopyMark>> {
        Ok(Self::copy(device, host, bytes))
    }

    fn to_device(
        &self,
        host: u64,
        device: u64,
        bytes: usize,
        _start: CopyStart,
    ) -> Result<Box<dyn CopyMark>> {
        Ok(Self::copy(host, device, bytes))
    }

    fn work_mark(&self) -> Result<Box<dyn CopyMark>> {
        Ok(Box::new(CopyDone))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
