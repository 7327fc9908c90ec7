//! The inputs of a loss: log-probs, token counts and the preference model's targets.

use std::fmt;

/// Log-probs of a pair's two responses, summed over their tokens, in nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLogProbs {
    /// log π(chosen | prompt).
    pub chosen: f64,
    /// log π(rejected | prompt).
    pub rejected: f64,
}

/// The preference model's numbers for a pair; a loss names the fields it needs (`LossKind::required_targets`).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PreferenceTarget {
    /// P(w ≻ l), row field `chosen_probs`.
    pub probability: Option<f64>,
    /// P̂_w, mean win probability of the chosen response, row field `chosen_probs_win`.
    pub probability_win: Option<f64>,
    /// P̂_l, mean win probability of the rejected response, row field `chosen_probs_lose`.
    pub probability_lose: Option<f64>,
    /// s(w, l), row field `chosen_score`.
    pub score: Option<f64>,
    /// ŝ_w, mean score of the chosen response, row field `chosen_score_win`.
    pub score_win: Option<f64>,
    /// ŝ_l, mean score of the rejected response, row field `chosen_score_lose`.
    pub score_lose: Option<f64>,
    /// Of an unpaired response: whether it is desirable, row field `label`.
    pub desirable: Option<bool>,
    /// What the pair's loss is multiplied by; absent: 1.
    pub weight: Option<f64>,
}

/// A field of [`PreferenceTarget`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetField {
    /// P(w ≻ l).
    Probability,
    /// P̂_w.
    ProbabilityWin,
    /// P̂_l.
    ProbabilityLose,
    /// ŝ_w.
    ScoreWin,
    /// ŝ_l.
    ScoreLose,
    /// 1 of a desirable response, 0 of an undesirable one.
    Label,
}

impl TargetField {
    /// The field's name in a row of pairs.
    pub(crate) fn row_field(self) -> &'static str {
        match self {
            TargetField::Probability => "chosen_probs",
            TargetField::ProbabilityWin => "chosen_probs_win",
            TargetField::ProbabilityLose => "chosen_probs_lose",
            TargetField::ScoreWin => "chosen_score_win",
            TargetField::ScoreLose => "chosen_score_lose",
            TargetField::Label => "label",
        }
    }

    pub(super) fn is_probability(self) -> bool {
        matches!(self, TargetField::Probability | TargetField::ProbabilityWin | TargetField::ProbabilityLose)
    }
}

impl fmt::Display for TargetField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row_field())
    }
}

impl PreferenceTarget {
    /// The value of one field.
    pub(crate) fn get(&self, field: TargetField) -> Option<f64> {
        match field {
            TargetField::Probability => self.probability,
            TargetField::ProbabilityWin => self.probability_win,
            TargetField::ProbabilityLose => self.probability_lose,
            TargetField::ScoreWin => self.score_win,
            TargetField::ScoreLose => self.score_lose,
            TargetField::Label => self.desirable.map(|desirable| f64::from(u8::from(desirable))),
        }
    }
}

/// One pair as a loss sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PairInputs {
    /// Under the policy in training.
    pub(crate) policy: PairLogProbs,
    /// Under the reference; `None` only where [`super::needs_reference`] is false.
    pub(crate) reference: Option<PairLogProbs>,
    /// Under the initial policy; `None` is right only where [`super::needs_initial`] says so.
    pub(crate) initial: Option<PairLogProbs>,
    /// Tokens of the chosen response, its end token included.
    pub(crate) chosen_tokens: usize,
    /// Tokens of the rejected response, its end token included.
    pub(crate) rejected_tokens: usize,
    /// The preference model's numbers.
    pub(crate) target: PreferenceTarget,
}

/// Counts over a whole optimizer batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchTotals {
    /// Pairs of the batch.
    pub(crate) pairs: usize,
    /// Tokens of all its chosen responses.
    pub(crate) chosen_tokens: usize,
}

#[cfg(test)]
impl BatchTotals {
    /// The totals of `pairs`, taken as a whole batch.
    pub(crate) fn of(pairs: &[PairInputs]) -> Self {
        BatchTotals { pairs: pairs.len(), chosen_tokens: pairs.iter().map(|pair| pair.chosen_tokens).sum() }
    }
}
