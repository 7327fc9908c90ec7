//! INPO, COMAL and MNPO: (h_θ − ρ h_initial − (1 − ρ) h_ref − 1/(2η))², h_X = log π_X(w|x) − log π_X(l|x).
//!
//! Source: Zhang et al., "Iterative Nash Policy Optimization" (arXiv 2407.00617); COMAL (arXiv 2410.23223), which renews
//! the initial policy every N iterations; MNPO (arXiv 2509.23102), in whose loss Σ_j λ_j h_{t−j} over the last policies
//! stands for h_ref. η is the strength of the step, ρ = τ/η the weight of the initial policy (τ the papers' weight of the
//! KL to it); `beta` is not read.
//!
//! Which log-probs play which part: `ref_*_logps` (h_ref) are those of the iteration's own policy, the one that training
//! starts from, and with `history` > 1 the caller's weighted mean over it and the policies before it;
//! `initial_*_logps` (h_initial) are those of the first policy, or of the one that `reference = "every-N"` renewed last.
//! The papers write h_ref for the latter and h_t for the former.
//!
//! As h_θ − ρ h_initial − (1 − ρ) h_ref = (Δ_w − Δ_l) − ρ (h_initial − h_ref), the terms are Δ as everywhere.
//! Departures: Δ are sums, as in the papers; `length_normalized` divides them and h_initial − h_ref alike. Logged rewards
//! are ηΔ.

use super::{Against, LossForm, LossKey, LossPair, LossSettings, TermsLoss, of_difference};

/// The loss.
pub(super) const FORM: LossForm = LossForm {
    against: Against::ReferenceAndInitial,
    keys: &[LossKey::Inpo],
    ..LossForm::of_pair("inpo", pair)
};

fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let margin = pair.terms.difference() - settings.rho * pair.initial.difference();
    let off = margin - 1.0 / (2.0 * settings.eta);
    of_difference(off * off, 2.0 * off)
}
