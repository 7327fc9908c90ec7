//! A device whose copies are not done before somebody waits for them: who reads too early finds other numbers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use candle_core::{Result, bail};
use selfplay_model::gpu::{CopyMark, HostCopies, PageLock, PageLocker};

/// The copies, and what became of them.
#[derive(Clone, Default)]
pub(crate) struct SlowCopies {
    pub(crate) seen: Arc<SeenCopies>,
}

/// Counts over all copies.
#[derive(Default)]
pub(crate) struct SeenCopies {
    pub(crate) started: AtomicUsize,
    under_way: AtomicUsize,
    /// Under way at a time at most.
    pub(crate) most: AtomicUsize,
    /// Page locks that were given, and given back.
    pub(crate) locked: AtomicUsize,
    pub(crate) unlocked: AtomicUsize,
    /// The copy that the device refuses, from 1; 0 is none.
    pub(crate) refused: AtomicUsize,
}

struct SlowMark {
    from: u64,
    to: u64,
    bytes: usize,
    is_done: AtomicBool,
    seen: Arc<SeenCopies>,
}

impl CopyMark for SlowMark {
    fn wait(&self) -> Result<()> {
        if !self.is_done.swap(true, Ordering::Relaxed) {
            self.seen.under_way.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: both memories are tensors', which whoever asked for the copy keeps until now.
            unsafe { std::ptr::copy(self.from as *const u8, self.to as *mut u8, self.bytes) };
        }
        Ok(())
    }

    fn device_waits(&self) -> Result<()> {
        self.wait()
    }
}

struct CountedLock(Arc<SeenCopies>);

impl PageLock for CountedLock {}

impl Drop for CountedLock {
    fn drop(&mut self) {
        self.0.unlocked.fetch_add(1, Ordering::Relaxed);
    }
}

impl SlowCopies {
    fn start(&self, from: u64, to: u64, bytes: usize) -> Result<Box<dyn CopyMark>> {
        let seen = self.seen.clone();
        let number = seen.started.fetch_add(1, Ordering::Relaxed) + 1;
        if number == seen.refused.load(Ordering::Relaxed) {
            bail!("copy {number} is lost")
        }
        let under_way = seen.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        seen.most.fetch_max(under_way, Ordering::Relaxed);
        Ok(Box::new(SlowMark { from, to, bytes, is_done: AtomicBool::new(false), seen }))
    }
}

impl PageLocker for SlowCopies {
    fn lock(&self, _host: u64, _bytes: usize) -> Option<Box<dyn PageLock>> {
        self.seen.locked.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(CountedLock(self.seen.clone())))
    }
}

impl HostCopies for SlowCopies {
    fn to_host(&self, device: u64, host: u64, bytes: usize) -> Result<Box<dyn CopyMark>> {
        self.start(device, host, bytes)
    }

    fn to_device(&self, host: u64, device: u64, bytes: usize) -> Result<Box<dyn CopyMark>> {
        self.start(host, device, bytes)
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
