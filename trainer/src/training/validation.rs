//! The held-out loss while training: when it is taken, when training ends for want of a better one, and the weights that had the best.
//!
//! All of it is a function of `metrics.jsonl` up to the last step done, so that a resumed run decides as the whole one did.
//! `best_weights.safetensors` has the trained tensors of the best step where training may end early; the policy that is written is
//! then that one's.

use std::path::{Path, PathBuf};

use selfplay_model::Decoder;
use selfplay_model::weights::safetensors::TensorFile;

use super::checkpoint::{trained_by_name, write_tensors};
use super::metrics::{StepMetrics, read_lines};
use super::run::TrainRun;
use super::state::{LoopState, metrics_path};
use crate::TrainError;
use crate::collective::{agree, from_first, is_first};
use crate::objectives::Objective;
use crate::trained::trained_tensors;
use crate::zero::{read_scattered, write_gathered};

/// When the held-out loss is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidationRule {
    /// Steps between two evaluations; the last step has one in any case.
    pub every: usize,
    /// Evaluations in a row without a better loss after which training ends. `None`: it never does.
    pub patience: Option<usize>,
}

/// The held-out loss after a step.
#[derive(Clone, Copy, Debug, PartialEq)]
struct StepLoss {
    step: usize,
    loss: f64,
}

/// The held-out losses of a run, so far.
pub(super) struct Validation {
    rule: Option<ValidationRule>,
    losses: Vec<StepLoss>,
    /// Steps of the plan.
    planned: usize,
}

fn best_path(folder: &Path) -> PathBuf {
    folder.join("best_weights.safetensors")
}

impl Validation {
    /// What the metrics of the `done` steps say; the same on every rank.
    pub(super) fn resume(
        objective: &dyn Objective,
        run: &TrainRun<'_>,
        done: usize,
        planned: usize,
    ) -> Result<Self, TrainError> {
        let rule = objective.validation();
        let mut losses = Vec::new();
        if rule.is_some() {
            let first = is_first(run.collective);
            let read = if first { read_lines(&metrics_path(run.folder)) } else { Ok(Vec::new()) };
            let lines: Vec<StepMetrics> = agree(run.collective, read)?;
            let own: Vec<f64> = lines
                .iter()
                .filter(|line| line.step <= done)
                .filter_map(|line| Some([line.step as f64, line.val_loss?]))
                .flatten()
                .collect();
            let all = from_first(run.collective, &own)?;
            losses =
                all.chunks_exact(2).map(|pair| StepLoss { step: pair[0] as usize, loss: pair[1] }).collect();
        }
        Ok(Self { rule, losses, planned })
    }

    /// The best loss so far, the first of equals.
    fn best(&self) -> Option<StepLoss> {
        let better = |best: StepLoss, one: &StepLoss| if one.loss < best.loss { *one } else { best };
        let (first, rest) = self.losses.split_first()?;
        Some(rest.iter().fold(*first, better))
    }

    /// Whether no better loss came for as long as is waited.
    pub(super) fn is_over(&self) -> bool {
        let patience = self.rule.and_then(|rule| rule.patience);
        let (Some(patience), Some(best)) = (patience, self.best()) else { return false };
        self.losses.iter().filter(|one| one.step > best.step).count() >= patience
    }

    /// Takes the loss after `step` where it is due, and keeps the weights where it is the best.
    pub(super) fn after_step(
        &mut self,
        decoder: &Decoder,
        objective: &dyn Objective,
        run: &TrainRun<'_>,
        state: &LoopState,
    ) -> Result<Option<f64>, TrainError> {
        let step = state.done;
        let Some(rule) = self.rule else { return Ok(None) };
        if !step.is_multiple_of(rule.every) && step != self.planned {
            return Ok(None);
        }
        state.settle()?;
        let loss = objective.validate(decoder, run.collective)?;
        if !loss.is_finite() {
            return Err(TrainError::NotFinite {
                step,
                quantity: crate::Quantity::Loss,
                example: "the held-out examples".to_owned(),
            });
        }
        let is_better = self.best().is_none_or(|best| loss < best.loss);
        self.losses.push(StepLoss { step, loss });
        if is_better && rule.patience.is_some() {
            let path = is_first(run.collective).then(|| best_path(run.folder));
            let written = match (state.shards(), &path) {
                (Some(shards), path) => {
                    let (items, device) = (shards.weight_items(), decoder.device());
                    write_gathered(run.collective, path.as_deref(), &items, device).map(drop)
                }
                (None, Some(path)) => write_tensors(path, &trained_by_name(decoder.parameters())).map(drop),
                (None, None) => Ok(()),
            };
            agree(run.collective, written)?;
        }
        Ok(Some(loss))
    }

    /// Puts back the weights of the best loss, where the last step's are not those and training could have ended early.
    pub(super) fn restore_best(
        &self,
        decoder: &Decoder,
        run: &TrainRun<'_>,
        state: &LoopState,
    ) -> Result<(), TrainError> {
        let done = state.done;
        let is_kept = self.rule.is_some_and(|rule| rule.patience.is_some());
        let Some(best) = self.best().filter(|best| is_kept && best.step != done) else { return Ok(()) };
        let path = best_path(run.folder);
        if let Some(shards) = state.shards() {
            read_scattered(run.collective, &path, None, &shards.weight_items(), decoder.device())?;
            shards.follow_masters()?;
        } else {
            let read = || -> Result<(), TrainError> {
                let file = TensorFile::open(&path, None)?;
                Ok(file.read_into(&trained_by_name(decoder.parameters()))?)
            };
            agree(run.collective, if is_first(run.collective) { read() } else { Ok(()) })?;
            if run.collective.world() > 1 {
                run.collective.broadcast(&trained_tensors(decoder.parameters()), 0)?;
            }
            decoder.parameters().round_masters()?;
        }
        tracing::info!("the weights after step {} have the best held-out loss, {:.6}", best.step, best.loss);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(losses: &[f64], patience: Option<usize>) -> bool {
        let losses = losses.iter().enumerate();
        Validation {
            rule: Some(ValidationRule { every: 1, patience }),
            losses: losses.map(|(step, &loss)| StepLoss { step: step + 1, loss }).collect(),
            planned: 99,
        }
        .is_over()
    }

    #[test]
    fn training_ends_after_so_many_evaluations_without_a_better_loss() {
        assert!(!over(&[], Some(1)));
        assert!(!over(&[3.0, 2.0], Some(1)));
        assert!(over(&[3.0, 2.0, 2.0], Some(1)));
        assert!(!over(&[3.0, 2.0, 2.5, 1.9], Some(2)));
        assert!(!over(&[3.0, 2.0, 2.5], Some(2)));
        assert!(over(&[3.0, 2.0, 2.5, 2.1], Some(2)));
        assert!(!over(&[3.0, 4.0, 5.0], None));
    }
}
