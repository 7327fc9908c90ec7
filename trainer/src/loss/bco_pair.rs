//! BCO on pairs: −log σ(βΔ_w − δ) − log σ(−(βΔ_l − δ)), δ = 0.
//!
//! Source: Jung et al., "Binary Classifier Optimization for Large Language Model Alignment" (arXiv 2404.04656), as TRL's
//! `bco_pair`.
//! Departures: δ, the running mean of all rewards that were seen, is left out: it would be state of the loss beside the
//! weights and the optimizer's, and make a batch's loss depend on the batches before it.

use super::{LossForm, LossPair, LossSettings, TermsLoss, log_sigmoid, sigmoid};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("bco-pair", pair);

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let beta = settings.beta;
    let (chosen, rejected) = (beta * pair.terms.chosen, beta * pair.terms.rejected);
    TermsLoss {
        value: -log_sigmoid(chosen) - log_sigmoid(-rejected),
        d_chosen: -beta * sigmoid(-chosen),
        d_rejected: beta * sigmoid(rejected),
    }
}
