//! A run's numbers for the tools that others look at runs with: TensorBoard, MLflow, Weights & Biases.
//!
//! ```text
//! scalars        what is tracked, by name             training   a training's steps, as they end
//! tensorboard/   event files in the run's folders     mlflow/    a server's REST interface, on a thread of its own
//! wandb/         an offline run, for `wandb sync`     protobuf, crc   what the two kinds of files are made of
//! ```
//!
//! The run's folder stays the only source: what one of these lacks (a server that was away, a kill) is taken from there later, and
//! no failure of theirs stops a run. Each is told once.

mod crc;
mod mlflow;
mod protobuf;
mod scalars;
mod tensorboard;
mod training;
mod wandb;

pub(crate) use tensorboard::EVENT_FILE;
pub(crate) use training::TrainingLog;

use crate::console::progress::Progress;
use crate::error::EngineError;
use crate::json_file::read_json;
use crate::recipe::LogSection;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::run::summary::{Evaluation, IterationSummary, StartSummary};
use mlflow::{Mlflow, MlflowStatus};
use scalars::{TrackedScalar, of_iteration, of_start};
use tensorboard::EventFile;

/// How a process leaves a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    /// Everything is done.
    Finished,
    /// A signal; it is resumed later.
    Stopped,
    /// An error.
    Failed,
}

/// Where a run's numbers go beside its folder.
#[derive(Debug)]
pub(crate) struct Tracking {
    log: LogSection,
    run: RunDir,
    mlflow: Option<Mlflow>,
}

impl Tracking {
    /// That what `log` asks for can be opened, before a run's folder is made. Nothing is opened.
    ///
    /// # Errors
    /// `log.mlflow` without the address of a server in the environment.
    pub(crate) fn check(log: &LogSection) -> Result<(), EngineError> {
        if log.mlflow { mlflow::settings().map(drop) } else { Ok(()) }
    }

    /// Opens what `log` asks for. No connection is made yet.
    ///
    /// # Errors
    /// `log.mlflow` without the address of a server in the environment.
    pub(crate) fn open(log: &LogSection, run: &RunDir, manifest: &Manifest) -> Result<Self, EngineError> {
        let mlflow = if log.mlflow { Some(Mlflow::open(&log.project, run, manifest)?) } else { None };
        Ok(Self { log: log.clone(), run: run.clone(), mlflow })
    }

    /// A finished iteration; its summary is on disk.
    pub(crate) fn iteration(&self, number: usize, progress: &Progress) {
        if self.log.tensorboard
            && let Err(error) = self.event_file(number)
        {
            progress.line(format!("warning: log.tensorboard: {error}; the run goes on"));
        }
        if let Some(mlflow) = &self.mlflow {
            for one in mlflow.iterations_sent().map_or(0, |sent| sent + 1)..=number {
                if let Ok(scalars) = self.scalars(one) {
                    mlflow.iteration(one, &scalars);
                }
            }
        }
        self.offline_run(None, progress);
    }

    /// The process leaves the run.
    pub(crate) fn finish(&self, end: RunEnd, progress: &Progress) {
        if let Some(mlflow) = &self.mlflow {
            mlflow.finish(match end {
                RunEnd::Finished => MlflowStatus::Finished,
                RunEnd::Stopped => MlflowStatus::Killed,
                RunEnd::Failed => MlflowStatus::Failed,
            });
        }
        self.offline_run(Some(end), progress);
    }

    /// The server that a training's steps are sent to.
    fn mlflow(&self) -> Option<&Mlflow> {
        self.mlflow.as_ref()
    }

    /// The run folder's event file, with a step for each iteration up to this one; 0 is the starting policy.
    fn event_file(&self, number: usize) -> Result<(), EngineError> {
        let mut file = EventFile::open(self.run.root(), number)?;
        for one in file.last_step().map_or(0, |step| step + 1)..=number {
            file.append(one, &self.scalars(one)?)?;
        }
        Ok(())
    }

    /// Of an iteration on disk; 0 is the starting policy, which may be without evaluation.
    fn scalars(&self, number: usize) -> Result<Vec<TrackedScalar>, EngineError> {
        if number > 0 {
            let summary: IterationSummary = read_json(&self.run.iteration(number).summary_file())?;
            return Ok(of_iteration(&summary));
        }
        if !self.run.start().is_done() {
            return Ok(Vec::new());
        }
        let start: Evaluation = read_json(&self.run.start().result_file())?;
        Ok(of_start(&StartSummary {
            eval_accuracy: start.eval_accuracy,
            characters: Some(start.characters),
            tokens: Some(start.tokens),
        }))
    }

    fn offline_run(&self, end: Option<RunEnd>, progress: &Progress) {
        if self.log.wandb
            && let Err(error) = wandb::write(&self.run, &self.log.project, end)
        {
            progress.line(format!("warning: log.wandb: {error}; the run goes on"));
        }
    }
}
