//! AdamW as torch.optim.AdamW has it, λ the weight decay, η the learning rate, t the step from 1:
//!
//! ```text
//! g ← scale · g
//! w ← w (1 − η λ)                          weight decay is decoupled
//! m ← m + (1 − β₁)(g − m)                  exp_avg
//! v ← β₂ v + (1 − β₂) g²                   exp_avg_sq
//! w ← w − η/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)
//! ```
//!
//! Source: Loshchilov and Hutter (arXiv 1711.05101); torch 2.x, torch/optim/adam.py, `_single_tensor_adam`.
//! Departures: none (no amsgrad).

use super::StepScalars;
use super::fused::Chunk;
use crate::settings::TrainSettings;

/// The rule's constants.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdamW {
    beta1: f64,
    beta2: f64,
    epsilon: f64,
}

/// One step's numbers in the precision of the pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdamWStep {
    scale: f32,
    keep: f32,
    rest1: f32,
    beta2: f32,
    rest2: f32,
    epsilon: f32,
    root_correction: f32,
    step_size: f32,
}

impl AdamW {
    pub fn new(settings: &TrainSettings) -> Self {
        AdamW { beta1: settings.adam_beta1, beta2: settings.adam_beta2, epsilon: settings.epsilon }
    }

    pub fn state_names(&self) -> [Option<&'static str>; 3] {
        [Some("exp_avg"), Some("exp_avg_sq"), None]
    }

    pub fn update(&self, scalars: StepScalars) -> AdamWStep {
        let steps = scalars.step as f64;
        AdamWStep {
            scale: scalars.clip_scale as f32,
            keep: (1.0 - scalars.rate * scalars.weight_decay) as f32,
            rest1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            rest2: (1.0 - self.beta2) as f32,
            epsilon: self.epsilon as f32,
            root_correction: (1.0 / (1.0 - self.beta2.powf(steps)).sqrt()) as f32,
            step_size: (scalars.rate / (1.0 - self.beta1.powf(steps))) as f32,
        }
    }
}

impl AdamWStep {
    /// As the GPU's kernel takes them.
    pub fn numbers(&self) -> [f32; 8] {
        [
            self.scale,
            self.keep,
            self.rest1,
            self.beta2,
            self.rest2,
            self.epsilon,
            self.root_correction,
            self.step_size,
        ]
    }

    /// `state`: exp_avg, exp_avg_sq.
    pub fn apply(&self, chunk: Chunk<'_>) {
        let Chunk { weight, gradient, state: [Some(mean), Some(square), _] } = chunk else { return };
        for (((w, g), m), v) in weight.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = self.scale * g;
            *m += self.rest1 * (g - *m);
            *v = self.beta2 * *v + self.rest2 * g * g;
            *w = *w * self.keep - self.step_size * (*m / (v.sqrt() * self.root_correction + self.epsilon));
        }
    }
}
