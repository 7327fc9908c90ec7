//! What can go wrong in a command: one error for the whole program, and the status that the process leaves with.
//!
//! A message is complete: it says what, where and what would be right, and quotes its causes, which `source` keeps as
//! values. [`HasKind::kind`] says whose fault it is, [`EngineError::exit_status`] is the one place of exit statuses.

use std::io;
use std::path::{Path, PathBuf};

use selfplay_client::ClientError;
use selfplay_model::ModelError;
use selfplay_pairer::PairingError;
use selfplay_records::{HasKind, Kind, Problems, RecordError, WriteError, hint_of};
use selfplay_sampler::SampleError;
use selfplay_scorer::ScoreError;
use selfplay_trainer::TrainError;

use crate::hub::HubError;
use crate::run::branch_point::BadBranchPoint;
use crate::signals::StopSignal;

/// A result of a command.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why a command stopped. One of these is one message on standard error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What the user gave is wrong: a flag, a file, a folder. The message says where and what would be right.
    #[error("{0}")]
    Input(String),
    /// A recipe with one or more wrong keys.
    #[error("{place}: {}", counted(.problems))]
    Recipe {
        /// The recipe's file, or `--set` where there is none.
        place: String,
        /// All of them.
        problems: Problems,
    },
    /// What the user gave is right, and it still did not work.
    #[error("{0}")]
    Failure(String),
    /// An error with the file, and the row if it has one, where it was met.
    #[error("{place}: {source}")]
    At {
        /// `FILE` or `FILE: row N`.
        place: String,
        /// The error.
        source: Box<EngineError>,
    },
    /// A file or folder that the user named cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Named {
        /// The file or folder.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The operating system refused a file or folder of our own.
    #[error("{}: cannot {action}: {source}{}", .path.display(), hint_of(.source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried, to be read after "cannot".
        action: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
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
    #[error("resume takes --set iterations=N, keys of [ranks], and no other key, found: {}; use `selfplay branch` to change a recipe in the middle of a run", .keys.join(", "))]
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
    #[error(transparent)]
    BranchPoint(#[from] BadBranchPoint),
    /// `branch` from a stage that is not finished.
    #[error("{}: {what} is not finished, so {from} cannot be branched from; finish it with: selfplay resume {}", .directory.display(), .directory.display())]
    StageUnfinished {
        /// The run folder.
        directory: PathBuf,
        /// The branch point.
        from: String,
        /// The unfinished part.
        what: String,
    },
    /// `branch --set` of keys whose effect is shared.
    #[error("--set of {} changes a stage at or before {from}, which the branch shares; only later stages can change", .keys.join(", "))]
    SharedKeys {
        /// The keys.
        keys: Vec<String>,
        /// The branch point.
        from: String,
    },
    /// An input file is not the one that the run began with.
    #[error("{}: {change} since this run began; put the inputs back as they were, or start a new run", .path.display())]
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
    /// A thread of ours ended without a result.
    #[error("the {thread} thread ended without a result; this is a defect of selfplay, please report it")]
    ThreadLost {
        /// Which.
        thread: &'static str,
    },
    /// Training ended early though no signal asked for it.
    #[error("{title}: ended after step {step} of its own accord, without a signal; {kept}")]
    TrainingStopped {
        /// What messages call the training.
        title: String,
        /// The last step; its checkpoint is written.
        step: usize,
        /// What was kept and how to go on.
        kept: String,
    },
    /// SIGINT or SIGTERM; everything finished is kept.
    #[error("stopped by {signal}; {kept}")]
    Stopped {
        /// Which signal.
        signal: StopSignal,
        /// What was kept and how to go on.
        kept: String,
    },
    /// The launch ended by another rank, which has said why.
    #[error("rank 0 has ended this launch; its message says why")]
    EndedElsewhere {
        /// The status that it left with.
        status: u8,
    },
    /// A failure in the middle of a run: what is finished stays.
    #[error("{source}\n  everything finished is kept; when the cause is removed, go on with: selfplay resume {}", .directory.display())]
    Interrupted {
        /// The run folder.
        directory: PathBuf,
        /// The cause.
        source: Box<EngineError>,
    },
    /// A model or data set of a hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A server that is asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Candidates and preferences that do not go together.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// A file of rows.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// A file or folder that cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A model folder, a tokenizer, a template, a forward pass.
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

impl EngineError {
    /// What the user gave is wrong.
    pub fn input(message: impl Into<String>) -> Self {
        Self::Input(message.into())
    }

    /// Something else went wrong.
    pub fn failure(message: impl Into<String>) -> Self {
        Self::Failure(message.into())
    }

    /// A path that the user named and that cannot be used.
    pub fn named(path: &Path, source: io::Error) -> Self {
        Self::Named { path: path.to_path_buf(), source }
    }

    /// A refusal of the operating system at a path of our own.
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), action, source }
    }

    /// `error` with the file and row where it was met.
    pub fn at_row(path: &Path, row: usize, error: Self) -> Self {
        Self::At { place: format!("{}: row {row}", path.display()), source: Box::new(error) }
    }

    /// `error` with the file whose rows it is about.
    pub fn in_file(path: &Path, error: impl Into<Self>) -> Self {
        Self::At { place: path.display().to_string(), source: Box::new(error.into()) }
    }

    /// Adds the line that names `resume`, once, to a failure in the middle of a run.
    pub fn in_run(self, directory: &Path) -> Self {
        match self.kind() {
            Kind::Input => self,
            _ if matches!(
                self,
                Self::Stopped { .. }
                    | Self::TrainingStopped { .. }
                    | Self::EndedElsewhere { .. }
                    | Self::Interrupted { .. }
            ) =>
            {
                self
            }
            _ => Self::Interrupted { directory: directory.to_path_buf(), source: Box::new(self) },
        }
    }

    /// Whether the user has been told already, by another rank.
    pub fn is_told(&self) -> bool {
        matches!(self, Self::EndedElsewhere { .. })
    }

    /// The signal that stopped the work, where it was one.
    pub(crate) fn signal(&self) -> Option<StopSignal> {
        match self {
            Self::Stopped { signal, .. } | Self::Hub(HubError::Stopped { signal, .. }) => Some(*signal),
            Self::Interrupted { source, .. } | Self::At { source, .. } => source.signal(),
            _ => None,
        }
    }

    /// Whether it is that another rank of a training has failed, which says itself why.
    pub(crate) fn is_of_another_rank(&self) -> bool {
        match self {
            Self::Train(TrainError::RankLost { .. }) => true,
            Self::Interrupted { source, .. } | Self::At { source, .. } => source.is_of_another_rank(),
            _ => false,
        }
    }

    /// The exit status of the process: 2 for wrong input, 128 + signal for a stop (75 where it asks to be queued again), 1 for anything
    /// else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::EndedElsewhere { status } => *status,
            Self::Stopped { signal, .. } => signal.exit_status(),
            Self::Interrupted { source, .. } | Self::At { source, .. } => source.exit_status(),
            Self::Hub(HubError::Stopped { signal, .. }) => signal.exit_status(),
            _ => match self.kind() {
                Kind::Input => 2,
                Kind::Machine | Kind::Defect | Kind::Stopped => 1,
            },
        }
    }
}

impl HasKind for EngineError {
    fn kind(&self) -> Kind {
        match self {
            Self::Input(_)
            | Self::Recipe { .. }
            | Self::Unfinished { .. }
            | Self::Finished { .. }
            | Self::OtherRecipe { .. }
            | Self::NotARun { .. }
            | Self::Occupied { .. }
            | Self::InUse { .. }
            | Self::ResumeKeys { .. }
            | Self::TooFewIterations { .. }
            | Self::BranchPoint(_)
            | Self::StageUnfinished { .. }
            | Self::SharedKeys { .. }
            | Self::InputChanged { .. }
            | Self::BadFile { .. } => Kind::Input,
            // A path that is not there, or not of the right sort, was named by the user.
            Self::Named { source, .. } => Kind::of_named_path(source),
            Self::Failure(_) | Self::Io { .. } | Self::Tensor(_) => Kind::Machine,
            Self::ThreadLost { .. } | Self::TrainingStopped { .. } => Kind::Defect,
            Self::Stopped { .. } | Self::EndedElsewhere { .. } => Kind::Stopped,
            Self::At { source, .. } | Self::Interrupted { source, .. } => source.kind(),
            Self::Hub(source) => source.kind(),
            Self::Client(source) => source.kind(),
            Self::Pairing(source) => source.kind(),
            Self::Records(source) => source.kind(),
            Self::Write(source) => source.kind(),
            Self::Model(source) => source.kind(),
            Self::Sample(source) => source.kind(),
            Self::Score(source) => source.kind(),
            Self::Train(source) => source.kind(),
        }
    }
}

/// One problem on the same line, several below their number.
fn counted(problems: &Problems) -> String {
    match problems.list.as_slice() {
        [only] => only.to_string(),
        many => many
            .iter()
            .fold(format!("{} problems", many.len()), |text, problem| format!("{text}\n  {problem}")),
    }
}

#[cfg(test)]
mod tests;
