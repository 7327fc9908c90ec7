//! Memory of the host that a device reads and writes by itself, while the host goes on: what goes to it and comes from it without
//! anybody waiting.

use std::cell::UnsafeCell;
use std::ops::Range;
use std::ptr::NonNull;
use std::slice;

/// Some bytes of the host's memory; dropping it gives them back.
///
/// # Safety
/// From the address on, a multiple of 8, there are so many bytes, all of them written once, that belong to nobody else, as long as
/// this lives.
pub unsafe trait StagingMemory: Send {
    /// Where it begins.
    fn address(&self) -> NonNull<u8>;

    /// Its bytes.
    fn size(&self) -> usize;
}

/// Memory that a launcher copies from and to.
pub struct StagingBuffer(Box<dyn StagingMemory>);

/// Memory like all other: for launchers that have done what they were told when they return.
struct Plain(Box<[UnsafeCell<u64>]>);

// SAFETY: the numbers are in memory of their own, zeros at first; nothing but their address is ever taken of them here.
unsafe impl StagingMemory for Plain {
    fn address(&self) -> NonNull<u8> {
        NonNull::from(&*self.0).cast()
    }

    fn size(&self) -> usize {
        size_of_val(&*self.0)
    }
}

impl StagingBuffer {
    /// Memory that a device can reach by itself.
    pub fn new(memory: Box<dyn StagingMemory>) -> Self {
        Self(memory)
    }

    /// Plain memory of `bytes` bytes or a few more.
    pub fn plain(bytes: usize) -> Self {
        Self(Box::new(Plain((0..bytes.div_ceil(8)).map(|_| UnsafeCell::new(0)).collect())))
    }

    /// How many bytes there are.
    pub fn size(&self) -> usize {
        self.0.size()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the memory's own promise.
        unsafe { slice::from_raw_parts(self.0.address().as_ptr(), self.0.size()) }
    }

    /// All bytes, to write.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and nobody else has this buffer.
        unsafe { slice::from_raw_parts_mut(self.0.address().as_ptr(), self.0.size()) }
    }

    /// The whole words among them.
    pub fn words(&self) -> &[u32] {
        // SAFETY: as above; the address is a multiple of 8, and a word has no invalid bits.
        unsafe { slice::from_raw_parts(self.0.address().as_ptr().cast(), self.0.size() / 4) }
    }

    /// The whole words among them, to write.
    pub fn words_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and nobody else has this buffer.
        unsafe { slice::from_raw_parts_mut(self.0.address().as_ptr().cast(), self.0.size() / 4) }
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
    use super::*;

    #[test]
    fn bytes_and_words_are_the_same_memory() {
        let mut buffer = StagingBuffer::plain(13);
        assert_eq!((buffer.size(), buffer.words().len()), (16, 4));
        buffer.words_mut()[1] = 0x0403_0201;
        assert_eq!(buffer.bytes()[4..8], 0x0403_0201u32.to_ne_bytes());
        let mut out = [0u8; 4];
        // SAFETY: four bytes go into four.
        unsafe { buffer.copy_to(4..8, out.as_mut_ptr() as u64) };
        assert_eq!(u32::from_ne_bytes(out), 0x0403_0201);
        // SAFETY: four bytes come from four.
        unsafe { buffer.copy_from(out.as_ptr() as u64, 4) };
        assert_eq!(buffer.words()[0], 0x0403_0201);
    }
}
