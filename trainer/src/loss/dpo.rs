//! DPO: −(1−ε) log σ(β(Δ_w − Δ_l)) − ε log σ(−β(Δ_w − Δ_l)).
//!
//! Source: Rafailov et al., "Direct Preference Optimization" (arXiv 2305.18290), eq. 7; ε is the label smoothing of
//! conservative DPO. Derivative by the margin: β(σ(β·margin) − (1 − ε)), for σ(−x) = 1 − σ(x).
//! Departures: none. TRL 1.x dropped ε from its `sigmoid` loss; this is the form before.

use super::{LossForm, LossKey, LossPair, LossSettings, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss.
pub(super) const FORM: LossForm =
    LossForm { keys: &[LossKey::LabelSmoothing], ..LossForm::of_pair("dpo", pair) };

/// The loss of one pair.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let smoothing = settings.label_smoothing;
    let logit = settings.beta * pair.terms.difference();
    let value = -(1.0 - smoothing) * log_sigmoid(logit) - smoothing * log_sigmoid(-logit);
    // Written as two products: σ(x) − 1 would lose every digit for large x.
    let slope = settings.beta * (smoothing * sigmoid(logit) - (1.0 - smoothing) * sigmoid(-logit));
    of_difference(value, slope)
}
