//! SimPO: −log σ(β(m_w − m_l) − γ), m the mean log-prob per response token; no reference.
//!
//! Source: Meng et al., "SimPO" (arXiv 2405.14734), eq. 6.
//! Departures: none. TRL divides γ by β and multiplies it back: the same number.

use super::{LossSettings, Terms, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss of one pair, on mean log-probs.
pub(super) fn pair(settings: &LossSettings, means: Terms) -> TermsLoss {
    let logit = settings.beta * (means.chosen - means.rejected) - settings.simpo_gamma;
    of_difference(-log_sigmoid(logit), -settings.beta * sigmoid(-logit))
}
