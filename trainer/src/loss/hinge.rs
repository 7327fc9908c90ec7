//! Hinge: max(0, 1 − β(Δ_w − Δ_l)).
//!
//! Source: Zhao et al., "SLiC-HF" (arXiv 2305.10425), on DPO's log-ratios, as TRL's `hinge`.
//! Departures: none. At the kink itself the derivative is 0, as torch's relu has it.

use super::{LossForm, LossPair, LossSettings, TermsLoss, of_difference};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("hinge", pair);

/// The loss of one pair.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let short = 1.0 - settings.beta * pair.terms.difference();
    if short > 0.0 { of_difference(short, -settings.beta) } else { of_difference(0.0, 0.0) }
}
