//! A process at work in a run folder: its lock, recipe, inputs, log and stop flag.

use std::sync::Arc;
use std::thread;

use selfplay_model::{Decoder, LoadOptions, ModelShare};
use selfplay_scorer::PreferenceModel;

use crate::console::progress::Progress;
use crate::error::EngineError;
use crate::inputs::Inputs;
use crate::inputs::policy::load_options;
use crate::inputs::usable_prompts::without_stop;
use crate::ranks::group::{Ranks, remove_leftovers};
use crate::recipe::{LogSection, Recipe};
use crate::run::dir::RunDir;
use crate::run::events::{Event, Events};
use crate::run::leaves::{Leaves, goes_on_merged};
use crate::run::lock::RunLock;
use crate::run::manifest::{Environment, Manifest};
use crate::run::policy_files;
use crate::run::stages_left::{IterationWork, StagesLeft, stages_left};
use crate::run::summary::IterationSummary;
use crate::runtime::Runtime;
use crate::signals::StopFlag;
use crate::stages::check_device;
use crate::tracking::Tracking;

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
    /// Where numbers go beside the run's folder.
    pub(crate) tracking: Tracking,
    /// Raised by SIGINT and SIGTERM.
    pub stop: StopFlag,
    /// The processes that work together, of which this may be one.
    pub(crate) ranks: Arc<Ranks>,
    /// Held until the session ends; another rank than 0 has none.
    _lock: Option<RunLock>,
}

/// What lets a process work in a run's folder.
pub(crate) struct RunHold {
    /// On the folder.
    pub(crate) lock: RunLock,
    /// This process among those of its launch, of which it is the first.
    pub(crate) ranks: Arc<Ranks>,
}

impl Session {
    /// The preference model as it is in an iteration, from 1; its answers are kept in the run's folder. Another rank than 0 keeps none: a
    /// log of answers is one process's, which knows where each line of it begins.
    ///
    /// # Errors
    /// When it does not load.
    pub fn preference_model(&self, iteration: usize) -> Result<Box<dyn PreferenceModel>, EngineError> {
        let folder = self.ranks.is_first().then(|| self.run.root());
        self.inputs.preference_model(&self.recipe, &self.runtime, iteration, folder)
    }

    /// Takes up work in a folder whose recipe and manifest are written.
    ///
    /// # Errors
    /// When the log cannot be written, a signal handler not be installed, or `[log]` names what is not there.
    pub fn open(
        command: &str,
        recipe: Recipe,
        run: RunDir,
        manifest: Manifest,
        inputs: Inputs,
        hold: RunHold,
        runtime: &Runtime,
    ) -> Result<Self, EngineError> {
        check_device(&runtime.device, &recipe.sample)?;
        let RunHold { lock, ranks } = hold;
        if !ranks.several() {
            remove_leftovers(run.root())?;
        }
        let tracking = Tracking::open(&recipe.log, &run, &manifest)?;
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
        if let Some(note) = without_stop(&inputs.policy.stop_ids, &recipe.sample) {
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
            tracking,
            stop,
            ranks,
            _lock: Some(lock),
        })
    }

    /// Takes up work as another rank than 0, which has begun the run and holds its lock.
    ///
    /// # Errors
    /// When this rank's own notes cannot be written, or a signal handler not be installed.
    pub(crate) fn follow(
        mut recipe: Recipe,
        run: RunDir,
        manifest: Manifest,
        inputs: Inputs,
        ranks: Arc<Ranks>,
        runtime: &Runtime,
    ) -> Result<Self, EngineError> {
        // Numbers go out from rank 0.
        recipe.log = LogSection::default();
        let tracking = Tracking::open(&recipe.log, &run, &manifest)?;
        let notes = ranks.own_events().unwrap_or_else(|| run.events_file());
        let events = Events::open(&notes)?;
        let stop = StopFlag::of_process()
            .map_err(|source| EngineError::io(run.root(), "install signal handlers", source))?;
        let progress = Progress::new(runtime.verbosity);
        let runtime = runtime.clone();
        Ok(Self {
            recipe,
            run,
            manifest,
            inputs,
            runtime,
            progress,
            events,
            tracking,
            stop,
            ranks,
            _lock: None,
        })
    }

    /// Iterations with something left to do, in order.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn remaining(&self) -> Result<Vec<usize>, EngineError> {
        let mut remaining = Vec::new();
        for iteration in 1..=self.manifest.shards().len().min(self.recipe.iterations) {
            if self.left(iteration)?.is_some() {
                remaining.push(iteration);
            }
        }
        Ok(remaining)
    }

    /// What is left of one iteration; `None` of a finished one.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn left(&self, iteration: usize) -> Result<Option<StagesLeft>, EngineError> {
        let work = IterationWork {
            shards: self.shards(iteration),
            evaluates: !self.inputs.held_out.is_empty(),
            leaves: Leaves::of(&self.recipe.train, iteration >= self.recipe.iterations),
            examples: self.recipe.train.loss.examples(),
        };
        let state = self.run.iteration(iteration).state()?;
        Ok(stages_left(work, &state))
    }

    /// All shards of an iteration.
    pub fn shards(&self, iteration: usize) -> usize {
        self.manifest.shards().get(iteration - 1).copied().unwrap_or(0)
    }

    /// The policy that an iteration ended with, as written; 0 is the starting policy.
    ///
    /// # Errors
    /// When it does not load, or is not what was written.
    pub fn policy_after(&self, iteration: usize) -> Result<Decoder, EngineError> {
        self.load_policy(iteration, None)
    }

    /// As [`Session::policy_after`]: all of it, or one rank's share.
    ///
    /// # Errors
    /// As [`Session::policy_after`].
    pub(crate) fn load_policy(
        &self,
        iteration: usize,
        share: Option<ModelShare>,
    ) -> Result<Decoder, EngineError> {
        let (inputs, recipe, runtime) = (&self.inputs, &self.recipe, &self.runtime);
        if iteration == 0 {
            return match share {
                Some(share) => inputs.share_of_policy(recipe, runtime, share),
                None => inputs.starting_policy(recipe, runtime),
            };
        }
        let dir = self.run.iteration(iteration);
        thread::scope(|scope| {
            // A load takes less time than the hashes of what it reads.
            let checked = scope.spawn(|| policy_files::check(&dir));
            let policy = match goes_on_merged(&recipe.train) {
                true => {
                    let options = LoadOptions { share, ..load_options(recipe, &runtime.device) };
                    Decoder::load(&dir.policy(), &options).map_err(EngineError::from)
                }
                false => inputs.adapted_policy(recipe, runtime, &dir.adapter()),
            };
            // Of a damaged file the hash tells more than what fails to load.
            checked.join().unwrap_or(Err(EngineError::ThreadLost { thread: "hashing" }))?;
            policy
        })
    }

    /// What names the model that an iteration's adapter belongs on, and at which revision.
    pub fn base_before(&self, iteration: usize) -> (String, Option<String>) {
        if iteration <= 1 || !goes_on_merged(&self.recipe.train) {
            return self.inputs.policy.base.clone();
        }
        let folder = self.run.iteration(iteration - 1).policy();
        (std::path::absolute(&folder).unwrap_or(folder).display().to_string(), None)
    }

    /// Says after a stop what was kept, and how to go on.
    pub fn kept(&self) -> String {
        format!("everything finished is kept, go on with: selfplay resume {}", self.run.root().display())
    }

    /// An error when a signal has asked for a stop, or another rank has failed.
    ///
    /// # Errors
    /// [`EngineError::Stopped`]; the other rank's.
    pub fn check_stop(&self) -> Result<(), EngineError> {
        self.ranks.check()?;
        match self.stop.requested() {
            None => Ok(()),
            Some(signal) => Err(EngineError::Stopped { signal, kept: self.kept() }),
        }
    }

    /// Marks an iteration as finished; its summary is written.
    ///
    /// # Errors
    /// When the manifest cannot be written.
    pub fn finish(&mut self, summary: &IterationSummary) -> Result<(), EngineError> {
        let iteration = summary.iteration;
        self.manifest.finish(iteration);
        self.manifest.write(&self.run.manifest_file())?;
        self.events.record(Event::Finished { iteration })?;
        self.tracking.iteration(iteration, &self.progress);
        self.progress.line(format!("iteration {iteration}: finished, {:.1} s in all", summary.seconds));
        Ok(())
    }
}
