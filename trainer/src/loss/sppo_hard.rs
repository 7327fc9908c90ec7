//! SPPO with hard labels: (Δ_w − ½/β)² + (Δ_l + ½/β)².
//!
//! Source: TRL's `sppo_hard`, the form of arXiv 2405.00675 in which the chosen response wins for certain and the
//! rejected one loses: P̂_w = 1, P̂_l = 0.
//! Departures: none from TRL. `sppo` is halved, as its authors' code is; this sum is not.

use super::{LossForm, LossPair, LossSettings, TermsLoss};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("sppo-hard", pair);

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let chosen = pair.terms.chosen - 0.5 / settings.beta;
    let rejected = pair.terms.rejected + 0.5 / settings.beta;
    TermsLoss {
        value: chosen * chosen + rejected * rejected,
        d_chosen: 2.0 * chosen,
        d_rejected: 2.0 * rejected,
    }
}
