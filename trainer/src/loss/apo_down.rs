//! APO-down: σ(βΔ_w) + 1 − σ(β(Δ_w − Δ_l)).
//!
//! Source: D'Oosterlinck et al., "Anchored Preference Optimization" (arXiv 2408.06266), as TRL's `apo_down`: for chosen
//! responses that are worse than what the policy says.
//! Departures: none.

use super::{LossForm, LossPair, LossSettings, TermsLoss, sigmoid, sigmoid_slope};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("apo-down", pair);

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let beta = settings.beta;
    let (chosen, margin) = (beta * pair.terms.chosen, beta * pair.terms.difference());
    let through_margin = beta * sigmoid_slope(margin);
    TermsLoss {
        // 1 − σ(x) = σ(−x)
        value: sigmoid(chosen) + sigmoid(-margin),
        d_chosen: beta * sigmoid_slope(chosen) - through_margin,
        d_rejected: through_margin,
    }
}
