//! The inputs of a training run besides model, data and settings, and its results.

use std::path::Path;

use super::metrics::{EpochAccuracy, StepMetrics};
use crate::collective::Collective;

/// A run's folder, seed and hooks.
///
/// ```text
/// folder/
///   metrics.jsonl                    a line per step
///   step_000200/                     checkpoints: weights, optimizer state, state.json
///   reference/00000-<hash>.jsonl     log-probs under the starting weights and other policies, for pairs without them
///   gradients_step_1.safetensors     on save_initial_gradients
///   best_weights.safetensors         those of the best held-out loss, where training may end early
///   accuracy.jsonl                   held-out accuracy of a preference model, per epoch
/// ```
pub struct TrainRun<'a> {
    /// Where metrics, checkpoints and reference log-probs go; made if absent. A run into a folder with a
    /// checkpoint resumes from it.
    pub folder: &'a Path,
    /// Orders the epochs, initialises heads.
    pub seed: u64,
    /// Called between steps and between shards of the reference pass; true ends the run with a checkpoint.
    pub stop: &'a dyn Fn() -> bool,
    /// Called after every step.
    pub progress: &'a mut dyn FnMut(&StepMetrics),
    /// Checkpoints that stay, the newest ones; the newest always does.
    pub keep_checkpoints: usize,
    /// The ranks that train together, [`Alone`](crate::collective::Alone) for one. All of them are given the same
    /// starting weights, examples, settings and seed; `folder` is read and written by rank 0 alone, `stop` and
    /// `progress` are each rank's own, and a stop of one ends all.
    pub collective: &'a dyn Collective,
}

/// How the pass before the first step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preparation {
    /// All is computed.
    Complete,
    /// `stop` returned true; what was computed is kept.
    Stopped,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum TrainOutcome {
    /// All steps are done; the decoder holds the trained weights, and so does the last checkpoint. Where ranks have loaded their
    /// shares of it, the weights stay with them: rank 0 may save it while the others are in [`Decoder::end_division`], which rank 0 calls
    /// afterwards.
    ///
    /// [`Decoder::end_division`]: selfplay_model::Decoder::end_division
    Finished(TrainSummary),
    /// `stop` returned true; the same call with the starting weights resumes from here.
    Interrupted {
        /// Steps done, all of them in a checkpoint.
        step: usize,
    },
}

/// Facts about a finished run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainSummary {
    /// Optimizer steps.
    pub steps: usize,
    /// Pairs, instructions or comparisons trained on.
    pub examples: usize,
    /// Loss of the first step.
    pub loss_first: Option<f64>,
    /// Loss of the last step.
    pub loss_last: Option<f64>,
    /// Examples that were cut to `max_length`.
    pub truncated: usize,
    /// Examples left out because cutting left nothing to learn.
    pub skipped: usize,
    /// Pairs whose two responses are the same tokens after every cut: they teach no preference.
    pub identical: usize,
    /// Held-out accuracy per epoch (preference models).
    pub accuracy: Vec<EpochAccuracy>,
    /// Tokens of a pass at most at the end, where it is not `micro_batch_tokens` that says so.
    pub micro_batch_tokens: Option<usize>,
}
