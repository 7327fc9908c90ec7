//! What a stage is given beside its data: where its files lie, what asks it to stop, where it reports.
//!
//! An iteration of a run is one workspace (its folder, events.jsonl), a stage command is another (`OUTPUT.parts/`). Every
//! stage is written once, over both.

use std::path::PathBuf;
use std::sync::Arc;

use selfplay_trainer::collective::Collective;

use crate::console::progress::{Progress, Task};
use crate::error::EngineError;
use crate::recipe::{Recipe, Stage};
use crate::run::events::Event;
use crate::signals::{StopFlag, StopSignal};
use crate::tracking::Tracking;

/// What a stage keeps on disk while it works, for a process that goes on later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Product {
    /// `sampling.json`, a file.
    SamplingFile,
    /// The folder of finished shards of candidates.
    Candidates,
    /// The folder of finished shards of preferences.
    Preferences,
    /// The trainer's folder: metrics, checkpoints, reference log-probs.
    Training,
}

/// Where a stage works.
pub trait Workspace {
    /// The settings of all stages.
    fn recipe(&self) -> &Recipe;

    /// From 1: keys all randomness beside the recipe's seed.
    fn iteration(&self) -> usize;

    /// Where a product lies.
    fn path(&self, product: Product) -> PathBuf;

    /// The folder of the policy that a server must serve here, where that is known and not the one that the run began with.
    fn policy_to_serve(&self) -> Option<PathBuf> {
        None
    }

    /// Where the numbers of the run go, beside its folder.
    fn tracking(&self) -> Option<&Tracking> {
        None
    }

    /// What messages call the stage here: `iteration 2: sampling`, or the command's name.
    fn title(&self, stage: Stage) -> String;

    /// Standard error.
    fn progress(&self) -> &Progress;

    /// Raised by SIGINT and SIGTERM.
    fn stop(&self) -> &StopFlag;

    /// Says after a stop what was kept, and how to go on.
    fn kept(&self) -> String;

    /// Notes in the log of events that a shard is on disk, where there is such a log.
    ///
    /// # Errors
    /// When the log cannot be written.
    fn record(&self, event: Event) -> Result<(), EngineError>;

    /// Whether this process writes what several ranks make together.
    fn is_first(&self) -> bool {
        true
    }

    /// The ranks that train together; `None` where it is one.
    fn collective(&self) -> Option<Arc<dyn Collective>> {
        None
    }

    /// The work has got on, for whoever watches this rank.
    fn moved(&self) {}

    /// Waits a moment for the signal, or the failure, that has ended work of all ranks: another one may have been told first.
    fn settle(&self) {}

    /// The error of a stage that a signal has ended.
    fn stopped(&self, signal: StopSignal) -> EngineError {
        EngineError::Stopped { signal, kept: self.kept() }
    }

    /// An error when a signal has asked for a stop, or another rank has failed.
    ///
    /// # Errors
    /// [`EngineError::Stopped`]; the other rank's.
    fn check_stop(&self) -> Result<(), EngineError> {
        self.stop().requested().map_or(Ok(()), |signal| Err(self.stopped(signal)))
    }

    /// A bar, or plain lines, for `total` units of a stage's work.
    fn task(&self, stage: Stage, unit: &'static str, total: usize) -> Task {
        self.progress().task(self.title(stage), unit, total as u64)
    }
}
