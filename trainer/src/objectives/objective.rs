//! What the training loop asks of the thing that is learnt: pairs, instructions, comparisons.

use selfplay_model::{Decoder, Gradients};

use crate::TrainError;

/// An optimizer batch after its gradient was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BatchReport {
    /// Mean over the batch.
    pub loss: f64,
    /// Mean reward of the chosen responses, of a loss over pairs.
    pub reward_chosen: Option<f64>,
    /// Mean reward of the rejected responses.
    pub reward_rejected: Option<f64>,
    /// Mean summed log-prob of the chosen responses, in nats.
    pub logp_chosen: Option<f64>,
    /// Mean summed log-prob of the rejected responses, in nats.
    pub logp_rejected: Option<f64>,
    /// Tokens that went forward.
    pub tokens: usize,
    /// The first example, by place in the batch, whose loss is not finite; gradients are then of no use.
    pub not_finite: Option<usize>,
}

/// A training objective over a fixed list of examples.
pub(crate) trait Objective {
    /// Examples of an epoch.
    fn examples(&self) -> usize;

    /// What error messages call an example.
    fn name(&self, example: usize) -> String;

    /// A hash of everything that the examples bring into training.
    fn fingerprint(&self) -> String;

    /// Adds the gradient of the mean loss over `batch` to `grads`.
    fn accumulate(
        &mut self,
        decoder: &Decoder,
        batch: &[usize],
        grads: &mut Gradients,
    ) -> Result<BatchReport, TrainError>;

    /// Called before the first step; `last_step` steps are done already.
    fn begin(&mut self, _last_step: usize) -> Result<(), TrainError> {
        Ok(())
    }

    /// Called after the last step of each epoch and after the last step of all; `epoch` counts from 1.
    fn end_epoch(&mut self, _decoder: &Decoder, _epoch: usize, _step: usize) -> Result<(), TrainError> {
        Ok(())
    }
}
