//! APO-zero: 1 − σ(βΔ_w) + σ(βΔ_l).
//!
//! Source: D'Oosterlinck et al., "Anchored Preference Optimization" (arXiv 2408.06266), as TRL's `apo_zero`: for chosen
//! responses that are better than what the policy says.
//! Departures: none.

use super::{LossForm, LossPair, LossSettings, TermsLoss, sigmoid, sigmoid_slope};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("apo-zero", pair);

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let beta = settings.beta;
    let (chosen, rejected) = (beta * pair.terms.chosen, beta * pair.terms.rejected);
    TermsLoss {
        // 1 − σ(x) = σ(−x)
        value: sigmoid(-chosen) + sigmoid(rejected),
        d_chosen: -beta * sigmoid_slope(chosen),
        d_rejected: beta * sigmoid_slope(rejected),
    }
}
