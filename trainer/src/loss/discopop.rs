//! DiscoPOP: (1 − m) · −log σ(x) + m · e^−x, m = σ(x/τ), x = β(Δ_w − Δ_l), τ = 0.05.
//!
//! Source: Lu et al., "Discovering Preference Optimization Algorithms with and for Large Language Models"
//! (arXiv 2406.08414), eq. 5, the log-ratio modulated loss, as TRL's `discopop`.
//! With a = −log σ(x) and E = m e^−x: d/dx = −σ(−x)(1 − m) − a m(1 − m)/τ + E((1 − m)/τ − 1).
//! Departures: τ is fixed at 0.05, the paper's value. E is taken as e^(log m − x): where x is far below 0, e^−x alone
//! overflows while E is 0. That falling branch is the paper's: a pair that is far on the wrong side is given up.

use super::{LossForm, LossPair, LossSettings, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("discopop", pair);

/// How fast the loss goes over from the logistic to the exponential form.
const TAU: f64 = 0.05;

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let logit = settings.beta * pair.terms.difference();
    let (mixed, rest) = (sigmoid(logit / TAU), sigmoid(-logit / TAU));
    let logistic = -log_sigmoid(logit);
    let exponential = (log_sigmoid(logit / TAU) - logit).exp();
    let slope = -sigmoid(-logit) * rest - logistic * mixed * rest / TAU + exponential * (rest / TAU - 1.0);
    of_difference(rest * logistic + exponential, settings.beta * slope)
}
