//! RMSProp as torch.optim.RMSprop has it, α the decay, λ the weight decay, μ the momentum, η the learning rate:
//!
//! ```text
//! g ← scale · g + λ w                      weight decay is coupled, after clipping
//! v ← α v + (1 − α) g²                     square_avg
//! a ← a + (1 − α)(g − a)                   grad_avg, with `centered` only
//! d ← √v + ε   or   √(v − a²) + ε          ε outside the root
//! b ← μ b + g / d;  w ← w − η b            momentum_buffer, with μ > 0 only
//! w ← w − η g / d                          without
//! ```
//!
//! Source: torch 2.x, torch/optim/rmsprop.py, `_single_tensor_rmsprop`.
//! Departure: v − a² is kept at 0 or above, where torch's rounding can take the root of a negative number.

use super::StepScalars;
use super::fused::Chunk;
use crate::settings::TrainSettings;

/// The rule's constants.
#[derive(Clone, Copy, Debug)]
pub(super) struct RmsProp {
    alpha: f64,
    epsilon: f64,
    momentum: f64,
    centered: bool,
}

/// One step's numbers in the precision of the pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct RmsPropStep {
    scale: f32,
    decay: f32,
    alpha: f32,
    rest: f32,
    epsilon: f32,
    momentum: f32,
    rate: f32,
}

impl RmsProp {
    pub fn new(settings: &TrainSettings) -> Self {
        RmsProp {
            alpha: settings.rmsprop_alpha,
            epsilon: settings.epsilon,
            momentum: settings.momentum,
            centered: settings.centered,
        }
    }

    pub fn state_names(&self) -> [Option<&'static str>; 3] {
        [
            Some("square_avg"),
            self.centered.then_some("grad_avg"),
            (self.momentum > 0.0).then_some("momentum_buffer"),
        ]
    }

    pub fn update(&self, scalars: StepScalars) -> RmsPropStep {
        RmsPropStep {
            scale: scalars.clip_scale as f32,
            decay: scalars.weight_decay as f32,
            alpha: self.alpha as f32,
            rest: (1.0 - self.alpha) as f32,
            epsilon: self.epsilon as f32,
            momentum: self.momentum as f32,
            rate: scalars.rate as f32,
        }
    }
}

impl RmsPropStep {
    /// As the GPU's kernel takes them.
    pub fn numbers(&self) -> [f32; 7] {
        [self.scale, self.decay, self.alpha, self.rest, self.epsilon, self.momentum, self.rate]
    }

    /// `state`: square_avg, grad_avg, momentum_buffer.
    pub fn apply(&self, chunk: Chunk<'_>) {
        let Chunk { weight, gradient, state: [Some(square), mean, buffer] } = chunk else { return };
        let streams = weight.iter_mut().zip(gradient).zip(square);
        match (mean, buffer) {
            (None, None) => {
                for ((w, g), v) in streams {
                    let g = self.gradient(*g, *w);
                    *w -= self.rate * (g / self.root(self.square(v, g)));
                }
            }
            (Some(mean), None) => {
                for (((w, g), v), a) in streams.zip(mean) {
                    let g = self.gradient(*g, *w);
                    *w -= self.rate * (g / self.centered_root(self.square(v, g), self.mean(a, g)));
                }
            }
            (None, Some(buffer)) => {
                for (((w, g), v), b) in streams.zip(buffer) {
                    let g = self.gradient(*g, *w);
                    *b = self.momentum * *b + g / self.root(self.square(v, g));
                    *w -= self.rate * *b;
                }
            }
            (Some(mean), Some(buffer)) => {
                for ((((w, g), v), a), b) in streams.zip(mean).zip(buffer) {
                    let g = self.gradient(*g, *w);
                    *b = self.momentum * *b + g / self.centered_root(self.square(v, g), self.mean(a, g));
                    *w -= self.rate * *b;
                }
            }
        }
    }

    #[inline(always)]
    fn gradient(&self, g: f32, w: f32) -> f32 {
        self.scale * g + self.decay * w
    }

    #[inline(always)]
    fn square(&self, v: &mut f32, g: f32) -> f32 {
        *v = self.alpha * *v + self.rest * g * g;
        *v
    }

    #[inline(always)]
    fn mean(&self, a: &mut f32, g: f32) -> f32 {
        *a += self.rest * (g - *a);
        *a
    }

    #[inline(always)]
    fn root(&self, v: f32) -> f32 {
        v.sqrt() + self.epsilon
    }

    #[inline(always)]
    fn centered_root(&self, v: f32, a: f32) -> f32 {
        self.root((v - a * a).max(0.0))
    }
}
