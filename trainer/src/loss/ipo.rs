//! IPO: (Δ_w − Δ_l − 1/(2β))².
//!
//! Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences"
//! (arXiv 2310.12036), eq. 17, β their τ.
//! Departures: none; Δ are sums, as in the equation. TRL 1.x divides each by its length: `length_normalized = true`.

use super::{LossForm, LossPair, LossSettings, TermsLoss, of_difference};

/// The loss.
pub(super) const FORM: LossForm = LossForm::of_pair("ipo", pair);

/// The loss of one pair.
fn pair(settings: &LossSettings, pair: &LossPair) -> TermsLoss {
    let off = pair.terms.difference() - 1.0 / (2.0 * settings.beta);
    of_difference(off * off, 2.0 * off)
}
