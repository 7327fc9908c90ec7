//! Memory of the host that copies go through in the order of a device's work (`Launcher::copy_in`, `Launcher::copy_out`): whole pages that
//! are nobody else's, locked where the device's driver locks pages.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;

use candle_core::{Result, bail};

use super::page_lock::{PageLock, PageLocker, locked};

/// Bytes that a buffer begins at a multiple of, and takes a multiple of: the largest page that a system has, so that no page is locked for
/// two buffers.
const PAGE: usize = 64 << 10;

/// Memory that a launcher copies from and to; dropping it gives it back.
pub struct StagingBuffer {
    /// Unlocked before the memory goes.
    lock: Option<Box<dyn PageLock>>,
    pages: WholePages,
    size: usize,
}

/// Whole pages, zeros at first.
struct WholePages {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is this one's alone, and any thread may use memory of the process.
unsafe impl Send for WholePages {}
// SAFETY: behind a shared reference it is only read.
unsafe impl Sync for WholePages {}

impl WholePages {
    fn new(bytes: usize) -> Result<Self> {
        let Some(layout) = bytes
            .max(1)
            .checked_next_multiple_of(PAGE)
            .and_then(|bytes| Layout::from_size_align(bytes, PAGE).ok())
        else {
            bail!("no buffer has {bytes} bytes")
        };
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc_zeroed(layout) };
        match NonNull::new(start) {
            Some(start) => Ok(Self { start, layout }),
            None => handle_alloc_error(layout),
        }
    }
}

impl Drop for WholePages {
    fn drop(&mut self) {
        // SAFETY: the memory came with this layout, and nobody has it any more.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

impl StagingBuffer {
    /// Memory of `bytes` bytes or a few more, which `locker` locks.
    ///
    /// # Errors
    /// More bytes than an address space has.
    pub fn new(locker: &dyn PageLocker, bytes: usize) -> Result<Self> {
        let pages = WholePages::new(bytes)?;
        let lock = locked(locker, pages.start.as_ptr() as u64, pages.layout.size());
        Ok(Self { lock, pages, size: bytes.max(1).next_multiple_of(8) })
    }

    /// Whether its pages are locked.
    pub(crate) fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: so many bytes are there and were written; they are this buffer's.
        unsafe { slice::from_raw_parts(self.pages.start.as_ptr(), self.size) }
    }

    /// All bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has this buffer.
        unsafe { slice::from_raw_parts_mut(self.pages.start.as_ptr(), self.size) }
    }

    /// The words among them.
    pub fn words(&self) -> &[u32] {
        // SAFETY: as above; a page begins at a multiple of 4, and a word has no invalid bits.
        unsafe { slice::from_raw_parts(self.pages.start.as_ptr().cast(), self.size / 4) }
    }

    /// The words among them, to write.
    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and nobody else has this buffer.
        unsafe { slice::from_raw_parts_mut(self.pages.start.as_ptr().cast(), self.size / 4) }
    }

    /// Copies some bytes to an address of the host's own memory, at once.
    ///
    /// # Safety
    /// There is room for them, which nobody else uses meanwhile.
    pub unsafe fn copy_to(&self, bytes: Range<usize>, to: u64) {
        let from = &self.bytes()[bytes];
        // SAFETY: the caller vouches for the room; a buffer is no part of it.
        unsafe { from.as_ptr().copy_to_nonoverlapping(to as *mut u8, from.len()) }
    }

    /// Copies so many bytes from an address of the host's own memory, at once.
    ///
    /// # Safety
    /// They are there, and nobody writes them meanwhile.
    pub unsafe fn copy_from(&mut self, from: u64, bytes: usize) {
        let to = &mut self.bytes_mut()[..bytes];
        // SAFETY: the caller vouches for the bytes; a buffer is no part of them.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(from as *const u8, to.len()) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::host_copies::PlainCopies;
    use super::*;

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let mut buffer = StagingBuffer::new(&PlainCopies, 13).unwrap();
        assert_eq!((buffer.size(), buffer.words().len()), (16, 4));
        assert!(buffer.bytes().iter().all(|&byte| byte == 0));
        buffer.words_mut()[1] = 0x0403_0201;
        assert_eq!(buffer.bytes()[4..8], 0x0403_0201u32.to_ne_bytes());
        let mut out = [0u8; 4];
        // SAFETY: four bytes go into four.
        unsafe { buffer.copy_to(4..8, out.as_mut_ptr() as u64) };
        assert_eq!(u32::from_ne_bytes(out), 0x0403_0201);
        // SAFETY: four bytes come from four.
        unsafe { buffer.copy_from(out.as_ptr() as u64, 4) };
        assert_eq!(buffer.words()[0], 0x0403_0201);
        assert!(StagingBuffer::new(&PlainCopies, usize::MAX).is_err());
    }

    /// What is locked at present.
    #[derive(Clone, Default)]
    struct Locked(Arc<Mutex<Vec<(u64, usize)>>>);

    struct Held(Locked, u64);

    impl PageLock for Held {}

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.0.lock().unwrap().retain(|(host, _)| *host != self.1);
        }
    }

    impl PageLocker for Locked {
        fn lock(&self, host: u64, bytes: usize) -> Option<Box<dyn PageLock>> {
            self.0.lock().unwrap().push((host, bytes));
            Some(Box::new(Held(self.clone(), host)))
        }
    }

    #[test]
    fn every_buffer_has_pages_of_its_own_and_unlocks_them() {
        let locked = Locked::default();
        let buffers: Vec<_> =
            [1, 4096, 3 * PAGE + 1, PAGE].map(|n| StagingBuffer::new(&locked, n).unwrap()).into();
        let mut ranges = locked.0.lock().unwrap().clone();
        ranges.sort_unstable();
        assert_eq!(ranges.len(), 4);
        for (host, bytes) in &ranges {
            assert_eq!((*host as usize % PAGE, bytes % PAGE), (0, 0));
        }
        assert!(ranges.windows(2).all(|pair| pair[0].0 + pair[0].1 as u64 <= pair[1].0));
        drop(buffers);
        assert!(locked.0.lock().unwrap().is_empty());
    }
}
