//! Which numbers of a parameter each of several ranks owns.
//!
//! A parameter is cut at multiples of [`UNIT`] numbers, so that a range begins where a partial sum of the gradient's norm
//! does, and where a block of an eight-bit state or of a quantised file does. Each unit goes to the rank that owns the least so far, so that
//! ranks own about as much of a model as each other, however small its tensors are; a tensor of many units is cut evenly.

use std::ops::Range;

use candle_core::Tensor;

/// Numbers that are not cut.
pub const UNIT: usize = 64 * 1024;

/// A rank among those that hold one model, each its own ranges of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShare {
    /// From 0.
    pub rank: usize,
    /// How many there are.
    pub world: usize,
}

/// What a rank holds of a parameter for which it has no memory as a whole.
#[derive(Clone, Debug)]
pub struct HeldRange {
    /// Which numbers, in the order of memory.
    pub numbers: Range<usize>,
    /// They, flat, in the dtype of computation; memory of their own.
    pub values: Tensor,
}

/// For each parameter, by its number of numbers, the ranges of `world` ranks, one behind the other.
pub fn divide_parameters(sizes: &[usize], world: usize) -> Vec<Vec<Range<usize>>> {
    let mut filled = vec![0usize; world.max(1)];
    sizes.iter().map(|&numbers| ranges(numbers, &mut filled)).collect()
}

fn ranges(numbers: usize, filled: &mut [usize]) -> Vec<Range<usize>> {
    let (mut counts, mut level) = (vec![0usize; filled.len()], filled.to_vec());
    for _ in 0..numbers.div_ceil(UNIT) {
        let emptiest = (0..level.len()).min_by_key(|&rank| level[rank]).unwrap_or(0);
        counts[emptiest] += 1;
        level[emptiest] += UNIT;
    }
    let mut first = 0;
    let mut ranges = Vec::with_capacity(filled.len());
    for (count, filled) in counts.into_iter().zip(filled) {
        let end = numbers.min(first + count * UNIT);
        *filled += end - first;
        ranges.push(first..end);
        first = end;
    }
    ranges
}

/// The most numbers that a rank owns of parameters of these sizes.
pub fn largest_share(sizes: &[usize], world: usize) -> usize {
    let divided = divide_parameters(sizes, world);
    let of = |rank: usize| divided.iter().map(|ranges| ranges[rank].len()).sum::<usize>();
    (0..world.max(1)).map(of).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let u = UNIT;
        // Three units: two to rank 0, the next parameter's to rank 1; short last units.
        let divided = divide_parameters(&[3 * u, u - 5, 2 * u, 7], 2);
        assert_eq!(divided[0], [0..2 * u, 2 * u..3 * u]);
        assert_eq!(divided[1], [0..0, 0..u - 5]);
        assert_eq!(divided[2], [0..u, u..2 * u]);
        assert_eq!(divided[3], [0..0, 0..7]);
        assert_eq!(divide_parameters(&[5], 1)[0][0], 0..5);
        assert_eq!(divide_parameters(&[0], 2), [vec![0..0, 0..0]]);
        assert_eq!(largest_share(&[3 * u, u - 5, 2 * u, 7], 2), 3 * u + 2);
    }

    proptest::proptest! {
        #[test]
        fn every_number_has_one_owner_and_shares_are_even(
            sizes in proptest::collection::vec(0usize..400_000, 1..30), world in 1usize..9,
        ) {
            let divided = divide_parameters(&sizes, world);
            let mut shares = vec![0usize; world];
            for (ranges, &numbers) in divided.iter().zip(&sizes) {
                let mut next = 0;
                for (rank, range) in ranges.iter().enumerate() {
                    proptest::prop_assert_eq!(range.start, next);
                    proptest::prop_assert!(range.is_empty() || range.start % UNIT == 0);
                    next = range.end;
                    shares[rank] += range.len();
                }
                proptest::prop_assert_eq!(next, numbers);
            }
            let (most, least) = (shares.iter().max().unwrap(), shares.iter().min().unwrap());
            proptest::prop_assert!(most - least <= 2 * UNIT, "{:?}", shares);
        }
    }
}
