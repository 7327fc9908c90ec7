//! A device whose copies are not done before somebody waits for them: who reads too early finds other numbers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Result, bail};
use selfplay_model::gpu::{CopyDone, CopyMark, CopyStart, HostCopies, PageLock, PageLocker};

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
    /// Whoever waits second finds it done.
    is_done: Mutex<bool>,
    seen: Arc<SeenCopies>,
}

impl CopyMark for SlowMark {
    fn wait(&self) -> Result<()> {
        let mut is_done = self.is_done.lock().unwrap();
        if !*is_done {
            *is_done = true;
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
        Ok(Box::new(SlowMark { from, to, bytes, is_done: Mutex::new(false), seen }))
    }
}

impl PageLocker for SlowCopies {
    fn lock(&self, _host: u64, _bytes: usize) -> Option<Box<dyn PageLock>> {
        self.seen.locked.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(CountedLock(self.seen.clone())))
    }
}

impl HostCopies for SlowCopies {
    fn to_host(&self, device: u64, host: u64, bytes: usize, _start: CopyStart) -> Result<Box<dyn CopyMark>> {
        self.start(device, host, bytes)
    }

    fn to_device(
        &self,
        host: u64,
        device: u64,
        bytes: usize,
        _start: CopyStart,
    ) -> Result<Box<dyn CopyMark>> {
        self.start(host, device, bytes)
    }

    fn work_mark(&self) -> Result<Box<dyn CopyMark>> {
        Ok(Box::new(CopyDone))
    }

    fn finish(&self) -> Result<()> {
        Ok(())
    }
}
