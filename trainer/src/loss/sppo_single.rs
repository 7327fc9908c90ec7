//! SPPO with the pair's own probability: ½[(Δ_w − (P − ½)/β)² + (Δ_l + (P − ½)/β)²], P = P(w ≻ l).
//!
//! Source: the authors' code of arXiv 2405.00675, `loss_type = "sppo_single"`. The paper's equation has the means; this
//! is its two-candidate form, in which P̂ against the other one stands for P̂ over all.
//! Departures: none; `target_clamp`, off by default, bounds the targets.

use super::{LossSettings, PreferenceTarget, Terms, TermsLoss, half_squares};

/// `target` holds the pair's probability (checked by the caller); ½, "no opinion", stands in for an absent one.
pub(super) fn pair(settings: &LossSettings, delta: Terms, target: &PreferenceTarget) -> TermsLoss {
    let wanted = settings.regression_target(target.probability.unwrap_or(0.5) - 0.5);
    half_squares(delta, wanted, -wanted)
}
