//! Copies between a device's memory and the host's that run beside the device's work, by addresses alone.
//!
//! A copy to the host begins when all work that was started before it is done, and so does one to the device: what it
//! overwrites is then no longer read. Work that is started later does not wait for either, unless [`CopyMark::device_waits`]
//! says so. Whoever asked for a copy keeps both memories until it is done. Copies from and to locked pages (`page_lock.rs`) alone run
//! beside the host's work too.

use candle_core::Result;

use super::page_lock::PageLocker;

/// A copy that was started.
pub trait CopyMark: Send {
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
    fn to_host(&self, device: u64, host: u64, bytes: usize) -> Result<Box<dyn CopyMark>>;

    /// Starts a copy from the host to the device.
    ///
    /// # Errors
    /// What the device says.
    fn to_device(&self, host: u64, device: u64, bytes: usize) -> Result<Box<dyn CopyMark>>;

    /// Waits for all copies that were started: before memory goes that an error has left one on the way to.
    ///
    /// # Errors
    /// What the device says.
    fn finish(&self) -> Result<()>;
}

/// Copies within one memory.
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
    fn to_host(&self, device: u64, host: u64, bytes: usize) -> Result<Box<dyn CopyMark>> {
        Ok(Self::copy(device, host, bytes))
    }

    fn to_device(&self, host: u64, device: u64, bytes: usize) -> Result<Box<dyn CopyMark>> {
        Ok(Self::copy(host, device, bytes))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
