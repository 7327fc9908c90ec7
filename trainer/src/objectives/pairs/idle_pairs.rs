//! Pairs that nothing can be learnt from: truncated to nothing, or two responses of the same tokens after truncation.

use super::data::PairData;
use super::truncate::LengthLimits;
use crate::TrainError;

/// Removes the pairs of which truncation left no token of a response. Returns their number.
///
/// # Errors
/// [`TrainError::Data`] where no pair is left.
pub(super) fn drop_emptied(pairs: &mut PairData, limits: LengthLimits) -> Result<usize, TrainError> {
    let before = pairs.len();
    let (dropped, first) = pairs.retain(|lengths| lengths.chosen > 0 && lengths.rejected > 0);
    let LengthLimits { max_length, max_prompt_length } = limits;
    match first {
        Some(first) if pairs.is_empty() => Err(TrainError::Data {
            problem: format!(
                "none of {before} pairs has a token of a response left after the cut to max_length = {max_length} \
                 (the first is {first})"
            ),
            want: format!("train.max_prompt_length, which is {max_prompt_length}, below train.max_length"),
        }),
        Some(first) => {
            tracing::warn!(
                "{dropped} of {before} pairs left out: the cut to max_length = {max_length} with max_prompt_length = \
                 {max_prompt_length} leaves nothing of their responses (the first is {first})"
            );
            Ok(dropped)
        }
        None => Ok(0),
    }
}

/// Counts the pairs of the same tokens in both responses, and names the first in the log.
///
/// # Errors
/// When the tokens cannot be read.
pub(super) fn count_identical_pairs(pairs: &PairData) -> Result<usize, TrainError> {
    let mut names = Vec::new();
    for index in 0..pairs.len() {
        let lengths = pairs.lengths(index);
        if lengths.chosen == lengths.rejected {
            let pair = pairs.get(index)?;
            names.extend((pair.chosen == pair.rejected).then_some(pair.name));
        }
    }
    if let Some(first) = names.first() {
        tell_identical(names.len(), pairs.len(), "responses", first);
    }
    Ok(names.len())
}

/// Says that `count` of `pairs` have the same tokens in both `sides`, and names the first.
pub(crate) fn tell_identical(count: usize, pairs: usize, sides: &str, first: &str) {
    tracing::warn!(
        "{count} of {pairs} pairs have the same tokens in both {sides}, and teach no preference (the first is {first})"
    );
}

#[cfg(test)]
mod tests {
    use super::super::TokenPair;
    use super::*;

    fn pair(name: &str, chosen: &[u32], rejected: &[u32]) -> TokenPair {
        let (chosen, rejected) = (chosen.to_vec(), rejected.to_vec());
        TokenPair { name: name.into(), prompt: vec![1], chosen, rejected, ..TokenPair::default() }
    }

    #[test]
    fn what_is_cut_to_nothing_is_left_out_and_the_same_is_counted() {
        let limits = LengthLimits { max_length: 4, max_prompt_length: 4 };
        let pairs = vec![pair("a", &[1], &[2]), pair("b", &[], &[2]), pair("c", &[3], &[3])];
        let mut pairs = PairData::from(pairs);
        assert_eq!(drop_emptied(&mut pairs, limits).unwrap(), 1);
        assert_eq!([0, 1].map(|index| pairs.get(index).unwrap().name), ["a", "c"]);
        assert_eq!(count_identical_pairs(&pairs).unwrap(), 1);
        let error = drop_emptied(&mut PairData::from(vec![pair("b", &[], &[])]), limits).unwrap_err();
        assert_eq!(selfplay_records::HasKind::kind(&error), selfplay_records::Kind::Input);
        assert!(error.to_string().contains("max_prompt_length, which is 4, below"), "{error}");
    }
}
