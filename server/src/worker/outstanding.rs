//! Places in a policy's queue.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Prompts that were taken and are not answered yet. A part of it goes back where it is dropped.
pub(crate) struct Outstanding {
    pub(super) count: Arc<AtomicUsize>,
    pub(super) taken: usize,
}

impl Outstanding {
    /// Takes out one prompt's part.
    pub(super) fn split(&mut self) -> Self {
        let taken = self.taken.min(1);
        self.taken -= taken;
        Self { count: self.count.clone(), taken }
    }
}

impl Drop for Outstanding {
    fn drop(&mut self) {
        self.count.fetch_sub(self.taken, Ordering::Relaxed);
    }
}
