//! The settings of a loss, and those of its defaults that no key of `[train]` holds.

use super::kind::LossKind;

/// η of INPO where `eta` is absent: COMAL's published value.
pub(crate) const DEFAULT_ETA: f64 = 0.002;
/// ρ of INPO where `rho` is absent: COMAL's published value.
pub(crate) const DEFAULT_RHO: f64 = 1.0 / 3.0;

/// What the losses read of `[train]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LossSettings {
    /// Which loss.
    pub kind: LossKind,
    /// β > 0.
    pub beta: f64,
    /// ε of DPO and its kin.
    pub label_smoothing: f64,
    /// Divide Δ by the response's tokens.
    pub length_normalized: bool,
    /// Weight of the chosen responses' NLL.
    pub sft_weight: f64,
    /// γ of SimPO.
    pub simpo_gamma: f64,
    /// Bound on a regression target's absolute value.
    pub target_clamp: Option<f64>,
    /// η of INPO > 0.
    pub eta: f64,
    /// ρ of INPO, 0 to 1.
    pub rho: f64,
    /// λ_D of KTO.
    pub desirable_weight: f64,
    /// λ_U of KTO.
    pub undesirable_weight: f64,
}

impl LossSettings {
    /// `target`/β within the clamp.
    pub(super) fn regression_target(&self, target: f64) -> f64 {
        let wanted = target / self.beta;
        self.target_clamp.map_or(wanted, |bound| wanted.clamp(-bound, bound))
    }
}
