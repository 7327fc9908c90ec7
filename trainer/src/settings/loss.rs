//! The part of `[train]` that a loss reads.

use super::TrainSettings;
use crate::loss::{DEFAULT_ETA, DEFAULT_RHO, LossSettings};

impl From<&TrainSettings> for LossSettings {
    fn from(settings: &TrainSettings) -> Self {
        LossSettings {
            kind: settings.loss,
            beta: settings.beta,
            label_smoothing: settings.label_smoothing,
            length_normalized: settings.length_normalized,
            sft_weight: settings.sft_weight,
            simpo_gamma: settings.simpo_gamma,
            target_clamp: settings.target_clamp,
            eta: settings.eta.unwrap_or(DEFAULT_ETA),
            rho: settings.rho.unwrap_or(DEFAULT_RHO),
            desirable_weight: settings.desirable_weight.unwrap_or(1.0),
            undesirable_weight: settings.undesirable_weight.unwrap_or(1.0),
        }
    }
}
