//! IPO: (Δ_w − Δ_l − 1/(2β))².
//!
//! Source: Azar et al., "A General Theoretical Paradigm to Understand Learning from Human Preferences"
//! (arXiv 2310.12036), eq. 17, β their τ.
//! Departures: none; Δ are sums, as in the equation. TRL 1.x divides each by its length: `length_normalized = true`.

use super::{LossSettings, Terms, TermsLoss, of_difference};

/// The loss of one pair.
pub(super) fn pair(settings: &LossSettings, delta: Terms) -> TermsLoss {
    let off = delta.chosen - delta.rejected - 1.0 / (2.0 * settings.beta);
    of_difference(off * off, 2.0 * off)
}
