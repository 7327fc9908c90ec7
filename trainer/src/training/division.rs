//! Dividing an optimizer batch into parts of about as many tokens, one for each rank.

use std::cmp::Reverse;

/// Cuts the examples `0..tokens.len()` into `parts`, each in ascending order: the longest example first, ever into the
/// part with the fewest tokens, the first of those where several have as few. Some are empty where there are fewer
/// examples than parts. One part is the batch in its own order.
pub(super) fn divide(tokens: &[usize], parts: usize) -> Vec<Vec<usize>> {
    let mut divided = vec![Vec::new(); parts.max(1)];
    let mut filled = vec![0usize; divided.len()];
    let mut longest_first: Vec<usize> = (0..tokens.len()).collect();
    longest_first.sort_by_key(|&example| (Reverse(tokens[example]), example));
    for example in longest_first {
        let emptiest = (0..filled.len()).min_by_key(|&part| filled[part]).unwrap_or(0);
        divided[emptiest].push(example);
        filled[emptiest] += tokens[example];
    }
    for part in &mut divided {
        part.sort_unstable();
    }
    divided
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // 9 | 7, then 4 joins 7 (11), 4 joins 9 (13), 3 joins 7 + 4.
        assert_eq!(divide(&[4, 9, 3, 7, 4], 2), [vec![1, 4], vec![0, 2, 3]]);
        assert_eq!(divide(&[3, 9, 4], 1), [vec![0, 1, 2]]);
        assert_eq!(divide(&[5], 3), [vec![0], vec![], vec![]]);
        assert_eq!(divide(&[], 2), [vec![], vec![]] as [Vec<usize>; 2]);
    }

    proptest::proptest! {
        #[test]
        fn every_example_once_and_no_part_ahead_by_more_than_one_example(
            tokens in proptest::collection::vec(1usize..40, 0..40), parts in 1usize..6,
        ) {
            let divided = divide(&tokens, parts);
            let mut all: Vec<usize> = divided.iter().flatten().copied().collect();
            all.sort_unstable();
            proptest::prop_assert_eq!(all, (0..tokens.len()).collect::<Vec<_>>());
            let sums: Vec<usize> =
                divided.iter().map(|part| part.iter().map(|&i| tokens[i]).sum()).collect();
            let (most, least) = (sums.iter().max().unwrap(), sums.iter().min().unwrap());
            proptest::prop_assert!(most - least <= tokens.iter().copied().max().unwrap_or(0));
            proptest::prop_assert!(divided.iter().all(|part| part.is_sorted()));
        }
    }
}
