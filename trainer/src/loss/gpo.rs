//! GPO: ½[(Δ_w − ŝ_w/β)² + (Δ_l − ŝ_l/β)²].
//!
//! Source: Zhang et al., "Beyond Bradley-Terry Models: A General Preference Model" (arXiv 2410.02197), section 5, with
//! the mean scores among the K candidates and log Z taken as 0.
//! Departures: the authors' trainer was never published; their script exports CLAMP_THRES = 1000. `target_clamp`, off by
//! default as in the paper, reproduces it.

use super::{LossForm, LossKey, LossPair, LossSettings, TargetField, TermsLoss, half_squares};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    targets: &[TargetField::ScoreWin, TargetField::ScoreLose],
    keys: &[LossKey::TargetClamp],
    ..LossForm::of_pair("gpo", pair)
};

/// The pair holds both mean scores (checked by the caller); 0, "no opinion", stands in for an absent one.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let wanted = |score: Option<f64>| settings.regression_target(score.unwrap_or(0.0));
    half_squares(pair.terms, wanted(pair.target.score_win), wanted(pair.target.score_lose))
}
