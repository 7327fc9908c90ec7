//! What can go wrong in a command, and the status that the process leaves with.

use std::io;
use std::path::{Path, PathBuf};

use selfplay_model::ModelError;
use selfplay_records::RecordError;
use selfplay_sampler::SampleError;
use selfplay_scorer::ScoreError;
use selfplay_trainer::TrainError;

use crate::hub::HubError;
use crate::pairing::PairingError;
use crate::recipe::RecipeError;

/// A result of a command.
pub type Result<T> = std::result::Result<T, EngineError>;

/// Why a command stopped. One of these is one message on standard error.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// What the user gave is wrong: a flag, a file, a folder. The message says where and what would be right.
    #[error("{0}")]
    Input(String),
    /// A recipe with one or more wrong keys.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// A model or data set of a hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// Candidates and preferences that do not go together.
    #[error(transparent)]
    Pairing(#[from] PairingError),
    /// What the user gave is right, and it still did not work.
    #[error("{0}")]
    Failure(String),
    /// SIGINT or SIGTERM; everything finished is kept.
    #[error("{message}")]
    Interrupted {
        /// The signal's number: 2 or 15.
        signal: i32,
        /// What was kept and how to go on.
        message: String,
    },
    /// Reading or writing a file failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A file of rows.
    #[error(transparent)]
    Records(#[from] RecordError),
    /// A model folder, a tokenizer, a template, a forward pass.
    #[error(transparent)]
    Model(#[from] ModelError),
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

    /// An input or output error at `path`.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    /// `error` with the file and row where it was met.
    pub fn at_row(path: &Path, row: usize, error: Self) -> Self {
        let message = format!("{}: row {row}: {error}", path.display());
        if error.is_input() { Self::Input(message) } else { Self::Failure(message) }
    }

    /// `error` with the file whose rows it is about.
    pub fn in_file(path: &Path, error: impl Into<Self>) -> Self {
        let error = error.into();
        let message = format!("{}: {error}", path.display());
        if error.is_input() { Self::Input(message) } else { Self::Failure(message) }
    }

    /// True where the user's input is wrong, not the machine or the program.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Input(_) | Self::Recipe(_) => true,
            Self::Failure(_) | Self::Interrupted { .. } => false,
            // A path that is not there, or not of the right sort, was named by the user.
            Self::Io { source, .. } => matches!(
                source.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
            ),
            Self::Hub(error) => error.is_input(),
            Self::Pairing(error) => error.is_input(),
            Self::Records(error) => error.is_input(),
            Self::Model(error) => error.is_input(),
            Self::Sample(error) => error.is_input(),
            Self::Score(error) => error.is_input(),
            Self::Train(error) => error.is_input(),
        }
    }

    /// The exit status of the process: 2 wrong input, 130 or 143 interrupted, 1 anything else.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Interrupted { signal, .. } => u8::try_from(128 + signal).unwrap_or(1),
            error if error.is_input() => 2,
            _ => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_the_contract_s() {
        assert_eq!(EngineError::input("x").exit_status(), 2);
        assert_eq!(EngineError::failure("x").exit_status(), 1);
        assert_eq!(EngineError::Interrupted { signal: 2, message: String::new() }.exit_status(), 130);
        assert_eq!(EngineError::Interrupted { signal: 15, message: String::new() }.exit_status(), 143);
        let absent = EngineError::io(Path::new("a"), io::ErrorKind::NotFound.into());
        assert_eq!(absent.exit_status(), 2);
    }
}
