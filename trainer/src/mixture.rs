//! Several data sets mixed by weight.
//!
//! An epoch has as many examples as the sets have together. Of them a set has the share that its weight has of all weights,
//! rounded by largest remainders; which of its examples these are is an order drawn from the seed, gone through as often as it takes:
//! a set that is larger than its share is cut, one that is smaller is repeated.

use crate::training::epoch_order;

/// An example of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pick {
    /// The set's place.
    pub set: usize,
    /// The example's place in it.
    pub example: usize,
}

/// The examples of an epoch, set by set. `weights`: one per set, all above 0; `None`: every example of every set once.
pub fn mixture(sizes: &[usize], weights: Option<&[f64]>, seed: u64) -> Vec<Pick> {
    let Some(weights) = weights else {
        return sizes
            .iter()
            .enumerate()
            .flat_map(|(set, &size)| (0..size).map(move |example| Pick { set, example }))
            .collect();
    };
    let mut picks = Vec::with_capacity(sizes.iter().sum());
    for (set, (count, &size)) in shares(sizes, weights).into_iter().zip(sizes).enumerate() {
        // Another order for every set, and none of an epoch's.
        let order = epoch_order(seed, usize::MAX - 1 - set, size);
        let mut chosen: Vec<usize> = (0..count).map(|place| order[place % size]).collect();
        // In the file's order, so that shuffle = false means something.
        chosen.sort_unstable();
        picks.extend(chosen.into_iter().map(|example| Pick { set, example }));
    }
    picks
}

/// How many examples each set gives: none of an empty one, together as many as there are.
fn shares(sizes: &[usize], weights: &[f64]) -> Vec<usize> {
    let total: usize = sizes.iter().sum();
    let weight = |set: usize| if sizes[set] > 0 { weights[set] } else { 0.0 };
    let all: f64 = (0..sizes.len()).map(weight).sum();
    let exact: Vec<f64> =
        (0..sizes.len()).map(|set| total as f64 * weight(set) / all.max(f64::MIN_POSITIVE)).collect();
    let mut counts: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..sizes.len()).filter(|&set| sizes[set] > 0).collect();
    by_remainder.sort_by(|&a, &b| (exact[b] - exact[b].floor()).total_cmp(&(exact[a] - exact[a].floor())));
    let missing = total.saturating_sub(counts.iter().sum());
    for &set in by_remainder.iter().cycle().take(if by_remainder.is_empty() { 0 } else { missing }) {
        counts[set] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        // 30 examples by 1 : 3 are 7.5 and 22.5: the first remainder of equals gets the rest.
        assert_eq!(shares(&[10, 20], &[1.0, 3.0]), [8, 22]);
        assert_eq!(shares(&[1, 1, 1], &[5.0, 3.0, 2.0]), [1, 1, 1]);
        assert_eq!(shares(&[0, 6], &[9.0, 1.0]), [0, 6]);
        assert_eq!(shares(&[], &[]), [0usize; 0]);
    }

    #[test]
    fn a_small_set_is_repeated_and_a_large_one_cut() {
        let picks = mixture(&[2, 10], Some(&[1.0, 1.0]), 7);
        let of = |set: usize| {
            picks.iter().filter(|pick| pick.set == set).map(|pick| pick.example).collect::<Vec<_>>()
        };
        assert_eq!(of(0), [0, 0, 0, 1, 1, 1]);
        let large = of(1);
        assert!(large.len() == 6 && large.windows(2).all(|pair| pair[0] < pair[1]), "{large:?}");
        assert_ne!(mixture(&[2, 10], Some(&[1.0, 1.0]), 8), picks);
        assert_eq!(mixture(&[2, 1], None, 7).len(), 3);
    }

    proptest::proptest! {
        #[test]
        fn no_example_is_met_twice_more_often_than_another(
            sizes in proptest::collection::vec(0usize..30, 1..5), seed in 0u64..5,
        ) {
            let weights: Vec<f64> = (0..sizes.len()).map(|set| 0.5 + set as f64).collect();
            let picks = mixture(&sizes, Some(&weights), seed);
            proptest::prop_assert_eq!(picks.len(), sizes.iter().sum::<usize>());
            for (set, &size) in sizes.iter().enumerate() {
                let mut met = vec![0usize; size];
                picks.iter().filter(|pick| pick.set == set).for_each(|pick| met[pick.example] += 1);
                let (least, most) = (met.iter().min(), met.iter().max());
                proptest::prop_assert!(most.unwrap_or(&0) - least.unwrap_or(&0) <= 1);
            }
        }
    }
}
