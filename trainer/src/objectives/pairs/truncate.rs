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

/// Tokens of a pair's lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PairLengths {
    pub(crate) prompt: usize,
    pub(crate) chosen: usize,
    pub(crate) rejected: usize,
}

impl PairLengths {
    pub(super) fn of(pair: &TokenPair) -> Self {
        Self { prompt: pair.prompt.len(), chosen: pair.chosen.len(), rejected: pair.rejected.len() }
    }

    /// Tokens of a forward pass over the pair: the prompt once, both responses.
    pub(crate) fn tokens(self) -> usize {
        self.prompt + self.chosen + self.rejected
    }

    /// Tokens of the prompt and the longer response.
    pub(crate) fn longest(self) -> usize {
        self.prompt + self.chosen.max(self.rejected)
    }

    /// What the limits leave.
    pub(crate) fn cut(self, limits: LengthLimits) -> Self {
        if self.longest() <= limits.max_length {
            return self;
        }
        let cut = Self { prompt: self.prompt.min(limits.max_prompt_length), ..self };
        if cut.longest() <= limits.max_length {
            return cut;
        }
        let room = limits.max_length.saturating_sub(cut.prompt);
        Self { chosen: cut.chosen.min(room), rejected: cut.rejected.min(room), ..cut }
    }
}

/// Which of an example's lists decide what is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutRule {
    /// All of a pair's.
    Pair(LengthLimits),
    /// An unpaired response's own tokens: `rejected`, which answers another prompt, gets the room that they leave.
    Unpaired(LengthLimits),
}

impl CutRule {
    /// What the rule leaves.
    pub(super) fn lengths(self, whole: PairLengths) -> PairLengths {
        match self {
            Self::Pair(limits) => whole.cut(limits),
            Self::Unpaired(limits) => {
                let room = limits.max_length.saturating_sub(whole.prompt);
                let rejected = whole.rejected.min(room.max(whole.chosen));
                PairLengths { rejected, ..whole }.cut(limits)
            }
        }
    }

    /// Whether anything of the example's own is cut.
    pub(super) fn shortens(self, whole: PairLengths) -> bool {
        let cut = self.lengths(whole);
        match self {
            Self::Pair(_) => cut != whole,
            Self::Unpaired(_) => (cut.prompt, cut.chosen) != (whole.prompt, whole.chosen),
        }
    }

    /// Cuts an example; whether anything of its own was cut.
    pub(super) fn apply(self, pair: &mut TokenPair) -> bool {
        let whole = PairLengths::of(pair);
        let cut = self.lengths(whole);
        cut_left(&mut pair.prompt, cut.prompt, pair.prompt_has_bos);
        pair.chosen.truncate(cut.chosen);
        pair.rejected.truncate(cut.rejected);
        self.shortens(whole)
    }
}

/// Keeps the last `limit` ids, the first of them exchanged for the prompt's own first one if that is its BOS.
fn cut_left(prompt: &mut Vec<u32>, limit: usize, keeps_first: bool) {
    if prompt.len() <= limit {
        return;
    }
    let kept = if keeps_first && limit > 0 { 1 } else { 0 };
    prompt.drain(kept..prompt.len() - (limit - kept));
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

    /// Cuts a pair.
    fn truncate(pair: &mut TokenPair, limits: LengthLimits) -> bool {
        CutRule::Pair(limits).apply(pair)
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
        assert!(!CutRule::Unpaired(LIMITS).apply(&mut fits));
        assert_eq!((fits.prompt.len(), fits.chosen.len(), fits.rejected.len()), (7, 2, 3));
        let mut long = pair(0..7, 9, 20, true);
        assert!(CutRule::Unpaired(LIMITS).apply(&mut long));
        assert_eq!((long.prompt, long.chosen.len(), long.rejected.len()), (vec![0, 4, 5, 6], 6, 6));
        assert!(!CutRule::Unpaired(LIMITS).shortens(PairLengths { prompt: 7, chosen: 3, rejected: 99 }));
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
