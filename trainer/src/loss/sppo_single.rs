//! SPPO with the pair's own probability: ½[(Δ_w − (P − ½)/β)² + (Δ_l + (P − ½)/β)²], P = P(w ≻ l).
//!
//! Source: the authors' code of arXiv 2405.00675, `loss_type = "sppo_single"`. The paper's equation has the means; this
//! is its two-candidate form, in which P̂ against the other one stands for P̂ over all.
//! Departures: none; `target_clamp`, off by default, bounds the targets.

use super::{LossForm, LossKey, LossPair, LossSettings, TargetField, TermsLoss, half_squares};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    targets: &[TargetField::Probability],
    keys: &[LossKey::TargetClamp],
    ..LossForm::of_pair("sppo-single", pair)
};

/// The pair holds the pair's probability (checked by the caller); ½, "no opinion", stands in for an absent one.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let wanted = settings.regression_target(pair.target.probability.unwrap_or(0.5) - 0.5);
    half_squares(pair.terms, wanted, -wanted)
}
