//! What the ranks exchange in an optimizer step, by the way that they train. Without overlap here: [`super::step`] has that.
//!
//! G: bytes of the gradients (f32), P: bytes of the weights (as they are computed with), H: of the output head, n ranks, m
//! micro-batches of a rank. Gradients are accumulated over micro-batches without communication.
//!
//! | | a rank sends in a step |
//! |---|---|
//! | data parallel, adapters, offload | all-reduce of G: 2(n − 1)/n · G |
//! | ZeRO-1 and 2 | reduce-scatter of G, all-gather of P: (n − 1)/n · (G + P) |
//! | ZeRO-3 | the same of G; for each micro-batch an all-gather of P for every pass, of H once more: (n − 1)/n · (G + m(aP + H)) |
//!
//! with a = 2, forward and backward (which computes again what it needs of the block that it has gathered), and one more where
//! the loss wants the log-probs of the whole batch first.

use super::form::TrainingForm;
use super::topology::{Cluster, Collecting};
use crate::plan::memory::{self, Models};
use crate::recipe::Recipe;

/// Sizes that the collectives of a step have, of all ranks together, and how often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StepTraffic {
    /// G.
    pub(super) gradients: f64,
    /// P.
    pub(super) weights: f64,
    /// H.
    pub(super) head: f64,
    /// m.
    pub(super) micro_batches: f64,
    /// a.
    pub(super) gathers: f64,
}

impl StepTraffic {
    /// Of a recipe as the form trains it.
    pub(super) fn of(models: &Models<'_>, recipe: &Recipe, micro_batches: f64, has_first_pass: bool) -> Self {
        Self {
            gradients: 4.0 * memory::trained_numbers(models.policy, &recipe.train) as f64,
            weights: models.policy_weights() as f64,
            head: models.policy.head_bytes(models.policy_dtype) as f64,
            micro_batches,
            gathers: if has_first_pass { 3.0 } else { 2.0 },
        }
    }

    /// Bytes that a rank sends in a step.
    pub(super) fn wire_bytes(&self, form: TrainingForm, cluster: &Cluster) -> f64 {
        let gathered = |bytes: f64| cluster.wire_bytes(Collecting::AllGather, bytes);
        let scattered = cluster.wire_bytes(Collecting::ReduceScatter, self.gradients);
        match form {
            TrainingForm::DataParallel
            | TrainingForm::Lora
            | TrainingForm::Qlora
            | TrainingForm::Offload
            | TrainingForm::OffloadGradients => cluster.wire_bytes(Collecting::AllReduce, self.gradients),
            TrainingForm::Zero1 | TrainingForm::Zero2 => scattered + gathered(self.weights),
            TrainingForm::Zero3 | TrainingForm::Zero3Offload => {
                scattered + self.micro_batches * gathered(self.gathers * self.weights + self.head)
            }
        }
    }
}
