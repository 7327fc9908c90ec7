//! The score of a comparison by the head that scores it, and the loss −log σ(s). The scores themselves and their
//! gradients are the model crate's ([`selfplay_model::preference::score`]), as the scorer computes them.

pub(crate) use selfplay_model::preference::score::ScoreGradient;
use selfplay_model::preference::score::{self, sigmoid};

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
    }
}

/// −log σ(s) and its derivative −σ(−s), without overflow on either side.
pub(crate) fn preference_loss(score: f64) -> PreferenceLoss {
    let loss = (-score).max(0.0) + (-score.abs()).exp().ln_1p();
    PreferenceLoss { loss, d_score: -sigmoid(-score) }
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
        let at = |s| preference_loss(s);
        assert!((at(0.0).loss - 2f64.ln()).abs() < 1e-15 && at(0.0).d_score == -0.5);
        assert_eq!((at(-2000.0).loss, at(-2000.0).d_score), (2000.0, -1.0));
        assert!(at(2000.0).loss == 0.0 && at(2000.0).d_score == 0.0);
    }
}
