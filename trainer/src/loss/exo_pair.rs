//! EXO on pairs: KL(policy ‖ label) = σ(βs) log(σ(βs) / (1−ε)) + σ(−βs) log(σ(−βs) / ε), s = Δ_w − Δ_l.
//!
//! Source: Ji et al., "Towards Efficient Exact Optimization of Language Model Alignment" (arXiv 2402.00856), eq. 16, as
//! TRL's `exo_pair`. DPO is the other direction, KL(label ‖ policy).
//! With x = βs: d/dx = σ(x) σ(−x) (x − log((1−ε)/ε)), for log σ(x) − log σ(−x) = x.
//! Departures: none. ε = 0, the default, has no finite KL: 0.001 stands for it, as in TRL.

use super::{LossForm, LossKey, LossPair, LossSettings, TermsLoss, log_sigmoid, of_difference, sigmoid};

/// The loss.
pub(super) const FORM: LossForm =
    LossForm { keys: &[LossKey::LabelSmoothing], ..LossForm::of_pair("exo-pair", pair) };

/// The label smoothing that stands for 0.
const LEAST_SMOOTHING: f64 = 1e-3;

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let smoothing = match settings.label_smoothing {
        0.0 => LEAST_SMOOTHING,
        given => given,
    };
    let logit = settings.beta * pair.terms.difference();
    let (wins, loses) = (sigmoid(logit), sigmoid(-logit));
    let value =
        wins * (log_sigmoid(logit) - (1.0 - smoothing).ln()) + loses * (log_sigmoid(-logit) - smoothing.ln());
    let slope = wins * loses * (logit - ((1.0 - smoothing) / smoothing).ln());
    of_difference(value, settings.beta * slope)
}
