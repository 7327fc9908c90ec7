//! Truncation of pairs to `max_length`, as in the contract.
//!
//! If prompt + the longer response exceed `max_length`, the prompt is cut from the left to `max_prompt_length`
//! keeping its BOS; if they still do, each response is cut from the right to `max_length − prompt`.

use super::TokenPair;
use crate::TrainSettings;

/// The bounds of a pair's length, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LengthLimits {
    /// Of prompt + response.
    pub(crate) max_length: usize,
    /// Of the prompt, where prompt + the longer response exceed `max_length`.
    pub(crate) max_prompt_length: usize,
}

impl From<&TrainSettings> for LengthLimits {
    fn from(settings: &TrainSettings) -> Self {
        Self { max_length: settings.max_length, max_prompt_length: settings.max_prompt_length }
    }
}

/// Cuts one pair to the limits; whether anything was cut.
pub(crate) fn truncate(pair: &mut TokenPair, limits: LengthLimits) -> bool {
    let longer = pair.chosen.len().max(pair.rejected.len());
    if pair.prompt.len() + longer <= limits.max_length {
        return false;
    }
    let mut cut = cut_left(&mut pair.prompt, limits.max_prompt_length, pair.prompt_has_bos);
    if pair.prompt.len() + longer > limits.max_length {
        let room = limits.max_length.saturating_sub(pair.prompt.len());
        cut |= pair.chosen.len() > room || pair.rejected.len() > room;
        pair.chosen.truncate(room);
        pair.rejected.truncate(room);
    }
    cut
}

/// Cuts one unpaired response to the limits, which its own tokens decide: `rejected`, which answers another prompt, gets the room that
/// they leave. Whether anything of the example's own was cut.
pub(crate) fn truncate_unpaired(example: &mut TokenPair, limits: LengthLimits) -> bool {
    let room = limits.max_length.saturating_sub(example.prompt.len());
    example.rejected.truncate(room.max(example.chosen.len()));
    truncate(example, limits)
}

/// Keeps the last `limit` ids, the first of them exchanged for the prompt's own first one if that is its BOS.
fn cut_left(prompt: &mut Vec<u32>, limit: usize, keeps_first: bool) -> bool {
    if prompt.len() <= limit {
        return false;
    }
    let kept = if keeps_first && limit > 0 { 1 } else { 0 };
    prompt.drain(kept..prompt.len() - (limit - kept));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(prompt: std::ops::Range<u32>, chosen: usize, rejected: usize, bos: bool) -> TokenPair {
        TokenPair {
            prompt: prompt.collect(),
            chosen: (100..100 + chosen as u32).collect(),
            rejected: (200..200 + rejected as u32).collect(),
            prompt_has_bos: bos,
            ..TokenPair::default()
        }
    }

    const LIMITS: LengthLimits = LengthLimits { max_length: 10, max_prompt_length: 4 };

    #[test]
    fn a_pair_that_fits_stays_even_with_a_long_prompt() {
        let mut fits = pair(0..7, 3, 1, true);
        let before = fits.clone();
        assert!(!truncate(&mut fits, LIMITS));
        assert_eq!(fits, before);
    }

    #[test]
    fn the_prompt_goes_first_and_keeps_its_bos() {
        let mut cut = pair(0..7, 4, 1, true); // 11 > 10
        assert!(truncate(&mut cut, LIMITS));
        assert_eq!(cut.prompt, [0, 4, 5, 6]);
        assert_eq!((cut.chosen.len(), cut.rejected.len()), (4, 1)); // 8 fits
        let mut plain = pair(0..7, 4, 1, false);
        assert!(truncate(&mut plain, LIMITS));
        assert_eq!(plain.prompt, [3, 4, 5, 6]);
    }

    #[test]
    fn the_longer_response_decides_whichever_it_is() {
        let mut cut = pair(0..7, 1, 4, false);
        assert!(truncate(&mut cut, LIMITS));
        assert_eq!(cut.prompt, [3, 4, 5, 6]);
    }

    #[test]
    fn a_response_to_another_prompt_takes_nothing_from_an_example() {
        let mut fits = pair(0..7, 2, 9, false);
        assert!(!truncate_unpaired(&mut fits, LIMITS));
        assert_eq!((fits.prompt.len(), fits.chosen.len(), fits.rejected.len()), (7, 2, 3));
        let mut long = pair(0..7, 9, 20, true);
        assert!(truncate_unpaired(&mut long, LIMITS));
        assert_eq!((long.prompt, long.chosen.len(), long.rejected.len()), (vec![0, 4, 5, 6], 6, 6));
    }

    #[test]
    fn responses_are_cut_from_the_right_to_what_the_prompt_leaves() {
        let mut cut = pair(0..7, 9, 3, true);
        assert!(truncate(&mut cut, LIMITS));
        assert_eq!(cut.prompt, [0, 4, 5, 6]);
        assert_eq!(cut.chosen, [100, 101, 102, 103, 104, 105]);
        assert_eq!(cut.rejected, [200, 201, 202]);
        // A prompt shorter than its limit is left whole: 2 + 9 > 10 leaves 8.
        let mut short = pair(0..2, 9, 9, true);
        assert!(truncate(&mut short, LIMITS));
        assert_eq!(short.prompt, [0, 1]);
        assert_eq!((short.chosen.len(), short.rejected.len()), (8, 8));
    }
}
