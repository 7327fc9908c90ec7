//! NCA on pairs: −log σ(βΔ_w) − ½ log σ(−βΔ_w) − ½ log σ(−βΔ_l).
//!
//! Source: Chen et al., "Noise Contrastive Alignment of Language Models with Explicit Rewards" (arXiv 2402.05369), the
//! pairwise form of TRL's `nca_pair`.
//! Departures: none.

use super::{LossForm, LossPair, LossSettings, TermsLoss, log_sigmoid, sigmoid};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("nca-pair", pair);

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let beta = settings.beta;
    let (chosen, rejected) = (beta * pair.terms.chosen, beta * pair.terms.rejected);
    TermsLoss {
        value: -log_sigmoid(chosen) - 0.5 * log_sigmoid(-chosen) - 0.5 * log_sigmoid(-rejected),
        d_chosen: beta * (0.5 * sigmoid(chosen) - sigmoid(-chosen)),
        d_rejected: 0.5 * beta * sigmoid(rejected),
    }
}
