//! Examples into sequences: longest first, each into the fullest sequence that has room for it (best fit), so that few tokens of the
//! sequences' length are left over. A batch has no padding in any case; what packing evens out is the cost of a step.

use std::collections::BTreeSet;

/// Lists of places in `tokens`, the tokens of each together at most `length`; an example that is longer stands alone. Every list is
/// ascending, and the lists are in the order of their first places.
pub(super) fn pack(tokens: &[u32], length: usize) -> Vec<Vec<u32>> {
    let mut longest_first: Vec<u32> = (0..tokens.len() as u32).collect();
    longest_first.sort_by_key(|&place| (std::cmp::Reverse(tokens[place as usize]), place));
    let mut sequences: Vec<Vec<u32>> = Vec::new();
    // Room that is left, and the sequence that has it.
    let mut rooms: BTreeSet<(usize, usize)> = BTreeSet::new();
    for place in longest_first {
        let tokens = tokens[place as usize] as usize;
        let (sequence, room) = match rooms.range((tokens, 0)..).next().copied() {
            Some((room, sequence)) => {
                rooms.remove(&(room, sequence));
                (sequence, room)
            }
            None => {
                sequences.push(Vec::new());
                (sequences.len() - 1, length.max(tokens))
            }
        };
        sequences[sequence].push(place);
        rooms.insert((room - tokens, sequence));
    }
    sequences.iter_mut().for_each(|sequence| sequence.sort_unstable());
    sequences.sort_unstable();
    sequences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fullest_sequence_with_room_is_filled() {
        // 7 and 6 open two sequences of 10; 4 fits beside 6 alone, 3 beside 7; 2 opens a third.
        assert_eq!(pack(&[3, 6, 7, 4, 2], 10), [vec![0, 2], vec![1, 3], vec![4]]);
        assert_eq!(pack(&[12, 1], 10), [vec![0], vec![1]]);
        assert!(pack(&[], 10).is_empty());
    }

    proptest::proptest! {
        #[test]
        fn every_example_once_and_few_sequences(
            tokens in proptest::collection::vec(1u32..50, 0..200), length in 50usize..80,
        ) {
            let sequences = pack(&tokens, length);
            let mut all: Vec<u32> = sequences.iter().flatten().copied().collect();
            all.sort_unstable();
            proptest::prop_assert_eq!(all, (0..tokens.len() as u32).collect::<Vec<_>>());
            let sum = |sequence: &Vec<u32>| sequence.iter().map(|&place| tokens[place as usize] as usize).sum::<usize>();
            proptest::prop_assert!(sequences.iter().all(|sequence| sum(sequence) <= length));
            // No two of them would fit into one.
            let mut sums: Vec<usize> = sequences.iter().map(sum).collect();
            sums.sort_unstable();
            proptest::prop_assert!(sums.len() < 2 || sums[0] + sums[1] > length);
        }
    }
}
