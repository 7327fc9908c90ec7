//! A tensor of which each rank owns a range of numbers.

use std::ops::Range;

use candle_core::{Device, Tensor};

/// A contiguous tensor, and by rank the ranges of its numbers that the ranks own, one behind the other; a range may be empty.
/// Together they are all of the tensor.
#[derive(Clone, Copy, Debug)]
pub struct Sliced<'a> {
    /// All of it.
    pub tensor: &'a Tensor,
    /// By rank, of the numbers in the order of memory.
    pub ranges: &'a [Range<usize>],
}

impl Sliced<'_> {
    /// What a rank owns of it, flat, in the same memory; `None` where that is nothing.
    ///
    /// # Errors
    /// A range outside the tensor.
    pub fn part_of(&self, rank: usize) -> candle_core::Result<Option<Tensor>> {
        match self.ranges.get(rank).filter(|range| !range.is_empty()) {
            Some(range) => part(self.tensor, range).map(Some),
            None => Ok(None),
        }
    }
}

/// Some numbers of a contiguous tensor, flat, in the same memory.
pub(crate) fn part(tensor: &Tensor, range: &Range<usize>) -> candle_core::Result<Tensor> {
    tensor.flatten_all()?.narrow(0, range.start, range.len())
}

/// A range in pieces of at most `most` numbers.
pub(crate) fn pieces(range: &Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let end = range.end;
    range.clone().step_by(most.max(1)).map(move |first| first..end.min(first + most.max(1)))
}

/// How many numbers are added or copied at a time. On a CPU few enough for a core's cache, and for candle to add them on the thread that
/// asks: from 64 Ki numbers on it hands them to a pool of its own, which serves one caller at a time and is waited for by spinning.
pub(crate) fn at_a_time(device: &Device) -> usize {
    if device.is_cpu() { 32 << 10 } else { 1 << 20 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_range() {
        assert_eq!(pieces(&(3..10), 4).collect::<Vec<_>>(), [3..7, 7..10]);
        let mut whole = pieces(&(3..7), 4);
        assert_eq!((whole.next(), whole.next()), (Some(3..7), None));
        assert_eq!(pieces(&(3..3), 4).count(), 0);
    }
}
