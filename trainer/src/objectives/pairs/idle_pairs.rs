//! Pairs that nothing can be learnt from: truncated to nothing, or two responses of the same tokens after truncation.

use super::TokenPair;
use super::truncate::LengthLimits;
use crate::TrainError;
use crate::objectives::Example;

/// Removes the pairs of which truncation left no token of a response. Returns their number.
///
/// # Errors
/// [`TrainError::Data`] where no pair is left.
pub(crate) fn drop_emptied(pairs: &mut Vec<TokenPair>, limits: LengthLimits) -> Result<usize, TrainError> {
    let before = pairs.len();
    let is_empty = |pair: &TokenPair| pair.chosen.is_empty() || pair.rejected.is_empty();
    let first = pairs.iter().find(|pair| is_empty(pair)).map(|pair| pair.name.clone());
    pairs.retain(|pair| !is_empty(pair));
    let dropped = before - pairs.len();
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

/// Counts the pairs whose two `sides` are the same tokens by `is_identical`, and names the first in the log.
pub(crate) fn count_identical<E: Example>(
    pairs: &[E],
    sides: &str,
    is_identical: impl Fn(&E) -> bool,
) -> usize {
    let mut same = pairs.iter().filter(|pair| is_identical(pair));
    let Some(first) = same.next() else { return 0 };
    let count = 1 + same.count();
    tracing::warn!(
        "{count} of {} pairs have the same tokens in both {sides}, and teach no preference (the first is {})",
        pairs.len(),
        first.name()
    );
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, chosen: &[u32], rejected: &[u32]) -> TokenPair {
        let (chosen, rejected) = (chosen.to_vec(), rejected.to_vec());
        TokenPair { name: name.into(), prompt: vec![1], chosen, rejected, ..TokenPair::default() }
    }

    #[test]
    fn what_is_cut_to_nothing_is_left_out_and_the_same_is_counted() {
        let limits = LengthLimits { max_length: 4, max_prompt_length: 4 };
        let mut pairs = vec![pair("a", &[1], &[2]), pair("b", &[], &[2]), pair("c", &[3], &[3])];
        assert_eq!(drop_emptied(&mut pairs, limits).unwrap(), 1);
        assert_eq!(pairs.iter().map(|pair| pair.name.as_str()).collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(count_identical(&pairs, "responses", |pair| pair.chosen == pair.rejected), 1);
        let error = drop_emptied(&mut vec![pair("b", &[], &[])], limits).unwrap_err();
        assert_eq!(selfplay_records::HasKind::kind(&error), selfplay_records::Kind::Input);
        assert!(error.to_string().contains("max_prompt_length, which is 4, below"), "{error}");
    }
}
