//! A process at work in a run folder: its lock, recipe, inputs, log and stop flag.

use selfplay_model::Decoder;
use selfplay_sampler::SampleSettings;

use crate::error::EngineError;
use crate::inputs::{Inputs, policy_options};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::run::dir::{IterationDir, RunDir};
use crate::run::events::{Event, Events};
use crate::run::lock::RunLock;
use crate::run::manifest::{Environment, Manifest};
use crate::run::plan::{Plan, plan};
use crate::run::policy_files;
use crate::runtime::Runtime;
use crate::signals::{StopFlag, StopSignal};
use crate::usable_prompts::without_stop;

/// Everything that the stages share.
pub struct Session {
    /// What to do.
    pub recipe: Recipe,
    /// Where.
    pub run: RunDir,
    /// What the run was begun with.
    pub manifest: Manifest,
    /// What the stages read.
    pub inputs: Inputs,
    /// Device and verbosity.
    pub runtime: Runtime,
    /// The log on standard error.
    pub progress: Progress,
    /// The log on disk.
    pub events: Events,
    /// Raised by SIGINT and SIGTERM.
    pub stop: StopFlag,
    /// Held until the session ends.
    _lock: RunLock,
}

impl Session {
    /// Takes up work in a folder whose recipe and manifest are written.
    ///
    /// # Errors
    /// When the log cannot be written or a signal handler not be installed.
    pub fn open(
        command: &str,
        recipe: Recipe,
        run: RunDir,
        manifest: Manifest,
        inputs: Inputs,
        lock: RunLock,
        runtime: &Runtime,
    ) -> Result<Self, EngineError> {
        run.remove_temporaries(recipe.iterations)?;
        let events = Events::open(&run.events_file())?;
        let threads = rayon::current_num_threads();
        events.record(Event::Started {
            command: command.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            threads,
        })?;
        let stop = StopFlag::of_process()
            .map_err(|source| EngineError::io(run.root(), "install signal handlers", source))?;
        let progress = Progress::new(runtime.verbosity);
        for difference in manifest.environment.differences(&Environment::here(&runtime.device_name)) {
            progress.line(format!(
                "note: this run began elsewhere ({difference}); bits of later results may differ"
            ));
        }
        if let Some(note) = without_stop(&inputs.stop_ids, &recipe.sample) {
            progress.line(note);
        }
        Ok(Self {
            recipe,
            run,
            manifest,
            inputs,
            runtime: runtime.clone(),
            progress,
            events,
            stop,
            _lock: lock,
        })
    }

    /// Iterations with something left to do, in order.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn remaining(&self) -> Result<Vec<usize>, EngineError> {
        let mut remaining = Vec::new();
        for iteration in 1..=self.manifest.shards().len().min(self.recipe.iterations) {
            if self.plan(iteration)?.is_some() {
                remaining.push(iteration);
            }
        }
        Ok(remaining)
    }

    /// What is left of one iteration.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn work(&self, iteration: usize) -> Result<Work, EngineError> {
        let (dir, shards) = (self.run.iteration(iteration), self.shards(iteration));
        Ok(Work { iteration, dir, shards, left: self.plan(iteration)?.unwrap_or_default() })
    }

    fn plan(&self, iteration: usize) -> Result<Option<Plan>, EngineError> {
        let evaluates = !self.inputs.held_out.is_empty();
        Ok(plan(self.shards(iteration), evaluates, &self.run.iteration(iteration).state()?))
    }

    /// All shards of an iteration.
    fn shards(&self, iteration: usize) -> usize {
        self.manifest.shards().get(iteration - 1).copied().unwrap_or(0)
    }

    /// The policy that an iteration ended with, as written; 0 is the starting policy.
    ///
    /// # Errors
    /// When it does not load, or is not what was written.
    pub fn policy_after(&self, iteration: usize) -> Result<Decoder, EngineError> {
        if iteration == 0 {
            return self.inputs.starting_policy(&self.recipe, &self.runtime);
        }
        policy_files::check(&self.run.iteration(iteration))?;
        Ok(Decoder::load(
            &self.run.iteration(iteration).policy(),
            &policy_options(&self.recipe, &self.runtime),
        )?)
    }

    /// `[sample]` for an iteration.
    pub fn sample_settings(&self, iteration: usize) -> SampleSettings {
        SampleSettings { seed: self.recipe.seed, iteration: iteration as u64, ..self.recipe.sample.clone() }
    }

    /// An error when a signal has asked for a stop.
    ///
    /// # Errors
    /// [`EngineError::Stopped`].
    pub fn check_stop(&self) -> Result<(), EngineError> {
        self.stop.requested().map_or(Ok(()), |signal| Err(self.stopped(signal)))
    }

    /// The error of a stage that a signal has ended.
    pub fn stopped(&self, signal: StopSignal) -> EngineError {
        let kept =
            format!("everything finished is kept, go on with: selfplay resume {}", self.run.root().display());
        EngineError::Stopped { signal, kept }
    }

    /// Marks an iteration as finished.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn finish(&mut self, iteration: usize) -> Result<(), EngineError> {
        self.manifest.finish(iteration);
        self.manifest.write(&self.run.manifest_file())?;
        self.events.record(Event::Finished { iteration })
    }
}

/// An iteration at work.
#[derive(Clone, Debug)]
pub struct Work {
    /// From 1.
    pub iteration: usize,
    /// Its folder.
    pub dir: IterationDir,
    /// All its shards.
    pub shards: usize,
    /// What is left of it.
    pub left: Plan,
}
