//! SPPO: ½[(Δ_w − (P̂_w − ½)/β)² + (Δ_l − (P̂_l − ½)/β)²].
//!
//! Source: Wu et al., "Self-Play Preference Optimization" (arXiv 2405.00675), eq. 4.7 with η = 1/β, as the authors' code
//! has it for `loss_type = "sppo"`: both responses with their mean win probability among the K candidates, halved.
//! Departures: none; `target_clamp`, off by default, bounds the targets.

use super::{LossSettings, PreferenceTarget, Terms, TermsLoss, half_squares};

/// `target` holds both mean probabilities (checked by the caller); ½, "no opinion", stands in for an absent one.
pub(super) fn pair(settings: &LossSettings, delta: Terms, target: &PreferenceTarget) -> TermsLoss {
    let wanted = |probability: Option<f64>| settings.regression_target(probability.unwrap_or(0.5) - 0.5);
    half_squares(delta, wanted(target.probability_win), wanted(target.probability_lose))
}
