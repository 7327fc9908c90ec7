//! SimPO: −log σ(β(m_w − m_l) − γ), m the mean log-prob per response token; no reference.
//!
//! Source: Meng et al., "SimPO" (arXiv 2405.14734), eq. 6.
//! Departures: none. TRL divides γ by β and multiplies it back: the same number.

use super::{Against, LossForm, LossPair, LossSettings, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss.
pub(super) const FORM: LossForm = LossForm { against: Against::Nothing, ..LossForm::of_pair("simpo", pair) };

/// The loss of one pair, on mean log-probs.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let logit = settings.beta * pair.terms.difference() - settings.simpo_gamma;
    of_difference(-log_sigmoid(logit), -settings.beta * sigmoid(-logit))
}
