//! Robust DPO: [−(1−ε) log σ(βs) + ε log σ(−βs)] / (1 − 2ε), s = Δ_w − Δ_l.
//!
//! Source: Chowdhury, Kini and Natarajan, "Provably Robust DPO" (arXiv 2403.00409), as TRL's `robust`: where a
//! share ε < ½ of the labels is flipped, its mean is DPO's on the labels as they were.
//! Departures: none. With ε = 0 it is `dpo`.

use super::{LossForm, LossKey, LossPair, LossSettings, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss.
pub(super) const FORM: LossForm =
    LossForm { keys: &[LossKey::LabelSmoothing], ..LossForm::of_pair("robust", pair) };

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let flipped = settings.label_smoothing;
    let logit = settings.beta * pair.terms.difference();
    let scale = 1.0 / (1.0 - 2.0 * flipped);
    let value = scale * (flipped * log_sigmoid(-logit) - (1.0 - flipped) * log_sigmoid(logit));
    let slope = -settings.beta * scale * (flipped * sigmoid(logit) + (1.0 - flipped) * sigmoid(-logit));
    of_difference(value, slope)
}
