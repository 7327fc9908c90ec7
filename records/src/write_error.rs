//! A write that failed, with its path: what every function of [`crate::atomic`] returns.

use std::io;
use std::path::{Path, PathBuf};

use crate::{HasKind, Kind};

/// A file or folder that could not be written; what was there before is as it was.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {action}: {source}{}", .path.display(), hint_of(.source))]
pub struct WriteError {
    /// The file or folder, under the name that it would have had.
    pub path: PathBuf,
    /// What was tried, to be read after "cannot": `write`, `rename`, `make the folder`.
    pub action: &'static str,
    /// The operating system's answer.
    pub source: io::Error,
}

impl WriteError {
    /// What turns an [`io::Error`] into this one, for `map_err`.
    pub fn at<'a>(path: &'a Path, action: &'static str) -> impl Fn(io::Error) -> Self + Copy + 'a {
        move |source| Self { path: path.to_path_buf(), action, source }
    }
}

impl HasKind for WriteError {
    fn kind(&self) -> Kind {
        Kind::Machine
    }
}

/// A full disk is the one cause that the user can remove without knowing more.
pub fn hint_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free some space",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn the_message_names_path_action_and_cause_and_keeps_the_source() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = WriteError::at(Path::new("a/b"), "write")(full);
        assert_eq!(error.to_string(), "a/b: cannot write: no storage space; free some space");
        let source =
            error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        assert_eq!(source, Some(io::ErrorKind::StorageFull));
        assert_eq!(error.kind(), Kind::Machine);
    }
}
