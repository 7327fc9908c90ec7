//! What can go wrong with a run folder, and the exit status that each case leaves with.

use std::io;
use std::path::{Path, PathBuf};

use selfplay_model::ModelError;
use selfplay_records::RecordError;
use selfplay_sampler::SampleError;
use selfplay_scorer::ScoreError;
use selfplay_trainer::TrainError;

use crate::branch::BranchPoint;
use crate::error::EngineError;
use crate::hub::HubError;
use crate::pairing::PairingError;
use crate::recipe::RecipeError;
use crate::signals::StopSignal;

/// An error of `run`, `resume`, `branch`, `show` or `compare`: what, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// `run` into a folder that holds the same recipe's unfinished run.
    #[error("{}: holds an unfinished run of this recipe; go on with: selfplay resume {}", .directory.display(), .directory.display())]
    Unfinished {
        /// The run folder.
        directory: PathBuf,
    },
    /// `run` into a folder that holds the same recipe's finished run.
    #[error(
        "{}: this run is finished; read it with: selfplay show {}; for more iterations than its {iterations}: selfplay resume {} --set iterations={}",
        .directory.display(), .directory.display(), .directory.display(), .iterations + 1
    )]
    Finished {
        /// The run folder.
        directory: PathBuf,
        /// How many iterations it has.
        iterations: usize,
    },
    /// `run` into a folder of another recipe.
    #[error("{}: belongs to another recipe; keys that differ: {}; name another folder with -o, or change iterations alone with: selfplay resume --set iterations=N", .directory.display(), .keys.join(", "))]
    OtherRecipe {
        /// The run folder.
        directory: PathBuf,
        /// The differing keys with both values.
        keys: Vec<String>,
    },
    /// A folder that should be a run folder is none.
    #[error("{}: is not a run folder: {missing} is absent; a folder made by `selfplay run` or `selfplay branch` is wanted", .directory.display())]
    NotARun {
        /// The folder.
        directory: PathBuf,
        /// The file that is not there.
        missing: String,
    },
    /// `run` or `branch` into a folder that holds other things.
    #[error("{}: exists and is not empty; name a folder that does not exist with -o", .directory.display())]
    Occupied {
        /// The folder.
        directory: PathBuf,
    },
    /// Another process works in the folder.
    #[error("{}: another selfplay process works in this folder; wait for it, or name another folder with -o", .directory.display())]
    InUse {
        /// The folder.
        directory: PathBuf,
    },
    /// `resume --set` with a key that it does not take.
    #[error("resume takes --set iterations=N and no other key, found: {}; use `selfplay branch` to change a recipe in the middle of a run", .keys.join(", "))]
    ResumeKeys {
        /// The keys.
        keys: Vec<String>,
    },
    /// `resume --set iterations=N` below what is done.
    #[error("iterations = {wanted}: {} has begun iteration {begun}; {begun} or more is wanted", .directory.display())]
    TooFewIterations {
        /// The run folder.
        directory: PathBuf,
        /// The wanted number.
        wanted: usize,
        /// The last iteration with anything on disk.
        begun: usize,
    },
    /// `branch --from` that is no branch point.
    #[error(
        "--from {given}: iteration_NN/candidates, iteration_NN/preferences or iteration_NN/pairs is wanted"
    )]
    BadBranchPoint {
        /// What was given.
        given: String,
    },
    /// `branch` from a stage that is not finished.
    #[error("{}: {what} is not finished, so {from} cannot be branched from; finish it with: selfplay resume {}", .directory.display(), .directory.display())]
    StageUnfinished {
        /// The run folder.
        directory: PathBuf,
        /// The branch point.
        from: BranchPoint,
        /// The unfinished part.
        what: String,
    },
    /// `branch --set` of keys whose effect is shared.
    #[error("--set of {} changes a stage at or before {from}, which the branch shares; only later stages can change", .keys.join(", "))]
    SharedKeys {
        /// The keys.
        keys: Vec<String>,
        /// The branch point.
        from: BranchPoint,
    },
    /// More iterations than splits.
    #[error(
        "iterations = {iterations}, but prompts.splits names {splits}; one split per iteration is wanted"
    )]
    TooFewSplits {
        /// `iterations`.
        iterations: usize,
        /// Number of `prompts.splits`.
        splits: usize,
    },
    /// An input file is not the one that the run began with.
    #[error("{}: {change} since this run began; put the old file back, or start a new run", .path.display())]
    InputChanged {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        change: &'static str,
    },
    /// A file of the run folder that does not read.
    #[error("{}: {problem}", .path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A wrong value that only shows beside the data.
    #[error("{problem}")]
    BadInput {
        /// What, where, and what would be right.
        problem: String,
    },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}{}", .path.display(), hint_of(source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The operating system's word.
        source: io::Error,
    },
    /// A thread of ours ended without a result.
    #[error("the {thread} thread ended without a result; this is a defect of selfplay, please report it")]
    ThreadLost {
        /// Which.
        thread: &'static str,
    },
    /// SIGINT or SIGTERM.
    #[error("stopped by {signal}; everything finished is kept, go on with: selfplay resume {}", .directory.display())]
    Stopped {
        /// Which signal.
        signal: StopSignal,
        /// The run folder.
        directory: PathBuf,
    },
    /// A failure in the middle of a run: what is finished stays.
    #[error("{source}\n  everything finished is kept; when the cause is removed, go on with: selfplay resume {}", .directory.display())]
    Interrupted {
        /// The run folder.
        directory: PathBuf,
        /// The cause.
        source: Box<RunError>,
    },
    /// The recipe.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A source that the recipe names.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Selecting pairs.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// Reading or writing rows.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// A model folder, or a computation.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation, such as memory that the device lacks.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// Sampling.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// Scoring.
    #[error(transparent)]
    Score(#[from] ScoreError),
    /// Training.
    #[error(transparent)]
    Train(#[from] TrainError),
}

impl RunError {
    /// An [`RunError::Io`] at `path`.
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, source }
    }

    /// Whether the user's input is wrong (exit status 2) rather than the machine (1).
    pub fn is_input(&self) -> bool {
        match self {
            Self::Unfinished { .. }
            | Self::Finished { .. }
            | Self::OtherRecipe { .. }
            | Self::NotARun { .. }
            | Self::Occupied { .. }
            | Self::InUse { .. }
            | Self::ResumeKeys { .. }
            | Self::TooFewIterations { .. }
            | Self::BadBranchPoint { .. }
            | Self::StageUnfinished { .. }
            | Self::SharedKeys { .. }
            | Self::TooFewSplits { .. }
            | Self::InputChanged { .. }
            | Self::BadFile { .. }
            | Self::BadInput { .. } => true,
            Self::Io { .. } | Self::Tensor(_) | Self::ThreadLost { .. } | Self::Stopped { .. } => false,
            Self::Interrupted { source, .. } => source.is_input(),
            Self::Recipe(_) => true,
            Self::Hub(error) => error.is_input(),
            Self::Pairing(error) => error.is_input(),
            Self::Records(error) => error.is_input(),
            Self::Model(error) => error.is_input(),
            Self::Sample(error) => error.is_input(),
            Self::Score(error) => error.is_input(),
            Self::Train(error) => error.is_input(),
        }
    }

    /// The exit status: 2 for wrong input, 128 + signal for a stop, 1 for anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Stopped { signal, .. } => signal.exit_status(),
            Self::Interrupted { source, .. } => source.exit_status(),
            other if other.is_input() => 2,
            _ => 1,
        }
    }

    /// Adds the line that names `resume`, once, to a failure in the middle of a run.
    pub fn in_run(self, directory: &Path) -> Self {
        match self {
            Self::Stopped { .. } | Self::Interrupted { .. } => self,
            other if other.is_input() => other,
            other => Self::Interrupted { directory: directory.to_path_buf(), source: Box::new(other) },
        }
    }
}

impl From<RunError> for EngineError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Stopped { signal, .. } => {
                Self::Interrupted { signal: signal.number(), message: error.to_string() }
            }
            other if other.is_input() => Self::Input(other.to_string()),
            other => Self::Failure(other.to_string()),
        }
    }
}

/// A full disk is the one cause that the user can remove without knowing more.
fn hint_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_follow_the_contract() {
        let directory = PathBuf::from("runs/x");
        assert_eq!(RunError::InUse { directory: directory.clone() }.exit_status(), 2);
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = RunError::io(&directory, "write", full).in_run(&directory);
        assert_eq!(error.exit_status(), 1);
        let text = error.to_string();
        assert!(text.contains("free some space") && text.contains("selfplay resume runs/x"), "{text}");
        assert_eq!(text.matches("resume").count(), 1);
        let stopped = RunError::Stopped { signal: StopSignal::Terminate, directory: directory.clone() };
        assert_eq!(stopped.in_run(&directory).exit_status(), 143);
    }
}
