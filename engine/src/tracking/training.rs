//! A training's steps, told to whatever `[log]` names as they end.

use std::path::PathBuf;

use selfplay_trainer::StepMetrics;

use super::Tracking;
use super::scalars::of_step;
use super::tensorboard::EventFile;
use crate::console::progress::Progress;
use crate::error::EngineError;
use crate::run::step_metrics;

/// A training that is tracked.
pub(crate) struct TrainingLog<'a> {
    folder: PathBuf,
    iteration: usize,
    progress: &'a Progress,
    has_event_file: bool,
    event_file: Option<EventFile>,
    tracking: Option<&'a Tracking>,
    has_caught_up: bool,
}

impl<'a> TrainingLog<'a> {
    /// Of the training in `folder`; nothing is opened before its first step. `tracking` is its run's.
    pub(crate) fn new(
        folder: PathBuf,
        iteration: usize,
        tensorboard: bool,
        tracking: Option<&'a Tracking>,
        progress: &'a Progress,
    ) -> Self {
        let has_caught_up = false;
        Self {
            folder,
            iteration,
            progress,
            has_event_file: tensorboard,
            event_file: None,
            tracking,
            has_caught_up,
        }
    }

    /// A step has ended, and its line stands in `metrics.jsonl`.
    pub(crate) fn step(&mut self, metrics: &StepMetrics) {
        if self.has_event_file
            && let Err(error) = self.append(metrics)
        {
            self.has_event_file = false;
            self.progress.line(format!("warning: log.tensorboard: {error}; the training goes on"));
        }
        let Some(mlflow) = self.tracking.and_then(Tracking::mlflow) else { return };
        if !std::mem::replace(&mut self.has_caught_up, true) {
            // What an earlier process could not send. A step that is computed again is the same step.
            let sent = mlflow.steps_sent(self.iteration);
            for line in step_metrics::steps(&self.folder) {
                if line.step > sent && line.step < metrics.step {
                    mlflow.step(self.iteration, line.step, &of_step(&line));
                }
            }
        }
        if metrics.step > mlflow.steps_sent(self.iteration) {
            mlflow.step(self.iteration, metrics.step, &of_step(metrics));
        }
    }

    /// The training is over: a process that had no step to do may still have some to tell.
    pub(crate) fn finish(&mut self) {
        let lacks_file = self.has_event_file && self.event_file.is_none();
        let lacks_server = !self.has_caught_up && self.tracking.and_then(Tracking::mlflow).is_some();
        if (lacks_file || lacks_server)
            && let Some(last) = step_metrics::steps(&self.folder).last()
        {
            self.step(last);
        }
    }

    /// Appends a step; the first time, before it, those that are in `metrics.jsonl` alone.
    fn append(&mut self, metrics: &StepMetrics) -> Result<(), EngineError> {
        if self.event_file.is_none() {
            let mut file = EventFile::open(&self.folder, metrics.step)?;
            let next = file.last_step().map_or(1, |last| last + 1);
            for line in step_metrics::steps(&self.folder) {
                if (next..metrics.step).contains(&line.step) {
                    file.append(line.step, &of_step(&line))?;
                }
            }
            self.event_file = Some(file);
        }
        match &mut self.event_file {
            Some(file) => file.append(metrics.step, &of_step(metrics)),
            None => Ok(()),
        }
    }
}
