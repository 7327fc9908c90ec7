//! Online IPO: (Δ_w − Δ_l − (P̂_w − P̂_l)/β)².
//!
//! Source: the online IPO update of Zhou et al., "Extragradient Preference Optimization" (arXiv 2503.08942):
//! [P(w ≻ y″) − P(l ≻ y″)]/β for one y″ of the policy. Among the K candidates, which are the policy's, the mean win
//! probabilities stand for it.
//! Departures: that mean; its variance is lower, its expectation the same but for the self terms.

use super::{LossForm, LossPair, LossSettings, TargetField, TermsLoss, of_difference};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    targets: &[TargetField::ProbabilityWin, TargetField::ProbabilityLose],
    ..LossForm::of_pair("online-ipo", pair)
};

/// The pair holds both mean probabilities (checked by the caller); ½, "no opinion", stands in for an absent one.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let mean = |probability: Option<f64>| probability.unwrap_or(0.5);
    let wanted = (mean(pair.target.probability_win) - mean(pair.target.probability_lose)) / settings.beta;
    let off = pair.terms.difference() - wanted;
    of_difference(off * off, 2.0 * off)
}
