//! The score of a comparison by the head that scores it, and the loss −log σ(s). The scores themselves and their
//! gradients are the model crate's ([`selfplay_model::preference::score`]), as the scorer computes them.

pub(crate) use selfplay_model::preference::score::ScoreGradient;
use selfplay_model::preference::score::{self, sigmoid};

use super::ComparisonLabel;

/// What kind of head scores a response.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceHeadKind {
    /// General preference representation, an even number of dimensions.
    #[default]
    Gpm,
    /// One reward.
    BradleyTerry,
    /// Hybrid: a reward and, in dimensions of its own, a GPM's cyclic part; s is the sum of both.
    Hrc,
}

/// The score of two value-head outputs [d] under a gate [d/2].
pub(crate) fn score(
    head: PreferenceHeadKind,
    tau: f64,
    chosen: &[f64],
    rejected: &[f64],
    gate: Option<&[f64]>,
) -> ScoreGradient {
    match head {
        PreferenceHeadKind::BradleyTerry => score::bradley_terry(tau, chosen, rejected),
        PreferenceHeadKind::Gpm => score::gpm(tau, chosen, rejected, gate),
        PreferenceHeadKind::Hrc => score::hrc(tau, chosen, rejected, gate),
    }
}

/// −p log σ(s − m) − (1 − p) log σ(m − s) and its derivative by s, σ(s − m) − p, without overflow on either side.
pub(crate) fn preference_loss(score: f64, label: ComparisonLabel) -> PreferenceLoss {
    let s = score - label.margin;
    let loss = |s: f64| (-s).max(0.0) + (-s.abs()).exp().ln_1p();
    let p = label.probability;
    if p == 1.0 {
        return PreferenceLoss { loss: loss(s), d_score: -sigmoid(-s) };
    }
    PreferenceLoss { loss: p * loss(s) + (1.0 - p) * loss(-s), d_score: sigmoid(s) - p }
}

/// A comparison's loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PreferenceLoss {
    pub(crate) loss: f64,
    pub(crate) d_score: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_head_has_its_score() {
        let gpm = score(PreferenceHeadKind::Gpm, 0.1, &[2.0, 0.0], &[3.0, 4.0], None);
        assert!((gpm.score - 8.0).abs() < 1e-12);
        assert_eq!(score(PreferenceHeadKind::BradleyTerry, 2.0, &[3.0], &[-1.0], None).score, 2.0);
    }

    #[test]
    fn the_loss_keeps_its_head_at_both_ends() {
        let at = |s| preference_loss(s, ComparisonLabel::default());
        assert!((at(0.0).loss - 2f64.ln()).abs() < 1e-15 && at(0.0).d_score == -0.5);
        assert_eq!((at(-2000.0).loss, at(-2000.0).d_score), (2000.0, -1.0));
        assert!(at(2000.0).loss == 0.0 && at(2000.0).d_score == 0.0);
    }

    #[test]
    fn labels_move_and_mix_the_loss() {
        let at = |s, probability, margin| preference_loss(s, ComparisonLabel { probability, margin });
        // A margin of 1 at s = 1 is s = 0 without one.
        assert!((at(1.0, 1.0, 1.0).loss - 2f64.ln()).abs() < 1e-15 && at(1.0, 1.0, 1.0).d_score == -0.5);
        // A tie is at rest at 0 and pulls back from either side alike.
        assert_eq!(at(0.0, 0.5, 0.0).d_score, 0.0);
        assert!((at(3.0, 0.5, 0.0).d_score + at(-3.0, 0.5, 0.0).d_score).abs() < 1e-15);
        // p = 0 is the pair the other way round, and ¾ is at rest at ln 3.
        assert!((at(0.7, 0.0, 0.0).loss - at(-0.7, 1.0, 0.0).loss).abs() < 1e-15);
        assert!(at(3f64.ln(), 0.75, 0.0).d_score.abs() < 1e-15);
        let h = 1e-6;
        let slope = (at(0.4 + h, 0.3, 0.2).loss - at(0.4 - h, 0.3, 0.2).loss) / (2.0 * h);
        assert!((slope - at(0.4, 0.3, 0.2).d_score).abs() < 1e-9);
    }
}
