//! Errors of this crate. A message says what is wrong, where, and what would be right.

use std::path::{Path, PathBuf};

use selfplay_records::shown::quoted;
use selfplay_records::{HasKind, Kind, WriteError};

/// An error of the model crate.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file or folder of the user's is not what it should be.
    #[error("{}: {what}; {remedy}", path.display())]
    Input {
        /// The file or folder at fault.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
        /// What would be right.
        remedy: String,
    },
    /// A value handed in (token ids, messages) is not usable with this model; the caller adds the row.
    #[error("{what}; {remedy}")]
    Value {
        /// What is wrong.
        what: String,
        /// What would be right.
        remedy: String,
    },
    /// Reading failed for a reason that is not the user's input (device error).
    #[error("{}: {source}", path.display())]
    Io {
        /// The file being read.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// A file of ours (a training checkpoint's tensors) is damaged, or its tensors are not those that are wanted.
    #[error("{}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A file or folder could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A tensor operation failed.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl HasKind for ModelError {
    fn kind(&self) -> Kind {
        match self {
            Self::Input { .. } | Self::Value { .. } => Kind::Input,
            Self::Io { .. } | Self::Damaged { .. } | Self::Candle(_) => Kind::Machine,
            Self::Write(source) => source.kind(),
        }
    }
}

impl ModelError {
    /// A fault of the user's file or folder at `path`. `what` may quote what the file holds: it is shown as one line.
    pub fn input(path: impl AsRef<Path>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        let what = quoted(&what.into());
        Self::Input { path: path.as_ref().to_path_buf(), what, remedy: remedy.into() }
    }

    /// A fault of a value that came without a path.
    pub fn value(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Value { what: quoted(&what.into()), remedy: remedy.into() }
    }

    /// A failed read at `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }

    /// A failed read of the user's file: one that is absent or closed to us is their input, the rest is not.
    pub(crate) fn reading(path: impl AsRef<Path>, source: std::io::Error, remedy: &str) -> Self {
        use std::io::ErrorKind;
        match source.kind() {
            ErrorKind::NotFound => Self::input(path, "there is no such file", remedy),
            ErrorKind::InvalidData | ErrorKind::InvalidInput => {
                Self::input(path, format!("it cannot be read: {source}"), remedy)
            }
            _ if Kind::of_named_path(&source) == Kind::Input => {
                Self::input(path, format!("it cannot be read ({source})"), remedy)
            }
            _ => Self::io(path, source),
        }
    }
}
