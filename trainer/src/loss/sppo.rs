//! SPPO: ½[(Δ_w − (P̂_w − ½)/β)² + (Δ_l − (P̂_l − ½)/β)²].
//!
//! Source: Wu et al., "Self-Play Preference Optimization" (arXiv 2405.00675), eq. 4.7 with η = 1/β, as the authors' code
//! has it for `loss_type = "sppo"`: both responses with their mean win probability among the K candidates, halved.
//! Departures: none; `target_clamp`, off by default, bounds the targets.

use super::{LossForm, LossKey, LossPair, LossSettings, TargetField, TermsLoss, half_squares};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    targets: &[TargetField::ProbabilityWin, TargetField::ProbabilityLose],
    keys: &[LossKey::TargetClamp],
    ..LossForm::of_pair("sppo", pair)
};

/// The pair holds both mean probabilities (checked by the caller); ½, "no opinion", stands in for an absent one.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let wanted = |probability: Option<f64>| settings.regression_target(probability.unwrap_or(0.5) - 0.5);
    half_squares(pair.terms, wanted(pair.target.probability_win), wanted(pair.target.probability_lose))
}
