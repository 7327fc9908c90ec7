//! How CPU forms share their work among threads.

use super::team::{self, Offer};

/// A pointer that tasks write disjoint parts of one buffer through.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T>(*mut T, usize);

// SAFETY: the holder promises that tasks touch disjoint ranges (see `SharedMut::range`).
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(slice: &mut [T]) -> Self {
        Self(slice.as_mut_ptr(), slice.len())
    }

    /// The elements `start..start + len`.
    ///
    /// # Safety
    /// The buffer is still there, and no other task holds an overlapping range while this one lives.
    ///
    /// # Panics
    /// A range that is not inside the buffer.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.1 && len <= self.1 - start, "a task's range is outside its buffer");
        // SAFETY: inside the buffer, which is there and disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    pub(crate) fn pointer(&self) -> *mut T {
        self.0
    }
}

/// Runs `f` for every index of `0..tasks`, in parallel when there is more than one and there are threads: on the team, or,
/// while another thread's loop has the team, on the rayon pool. Inside a loop of the team the tasks run in the caller's
/// thread.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Send + Sync) {
    use rayon::prelude::*;
    if tasks <= 1 || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(f);
        return;
    }
    match team::offer(tasks, &f) {
        Offer::Done => {}
        Offer::Nested => (0..tasks).for_each(f),
        Offer::Taken => (0..tasks).into_par_iter().with_max_len(1).for_each(f),
    }
}

/// Splits `rows` rows of `width` elements of `out` into tasks of at least `min_elements` elements and runs
/// `f(first_row, rows_of_out)` on each.
pub fn for_rows<T: Send>(
    out: &mut [T],
    width: usize,
    min_elements: usize,
    f: impl Fn(usize, &mut [T]) + Send + Sync,
) {
    if out.is_empty() || width == 0 {
        return;
    }
    let rows = out.len() / width;
    let threads = rayon::current_num_threads();
    let chunk = rows.div_ceil(threads * 2).max(min_elements.div_ceil(width)).max(1);
    if chunk >= rows {
        f(0, out);
        return;
    }
    let shared = SharedMut::new(out);
    for_each(rows.div_ceil(chunk), |task| {
        let first = task * chunk;
        // SAFETY: these rows are this task's.
        f(first, unsafe { shared.range(first * width, chunk.min(rows - first) * width) });
    });
}
