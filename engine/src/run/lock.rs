//! One process per run folder: the operating system's lock on `run.lock`.
//!
//! The lock belongs to the open file, so a process that is killed leaves none behind; the file itself stays.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;

use crate::error::EngineError;
use crate::run::dir::RunDir;

/// Held as long as this value lives.
#[derive(Debug)]
pub struct RunLock {
    // Never read: dropping it releases the lock.
    _file: File,
}

impl RunLock {
    /// Takes the lock of a run folder that exists.
    ///
    /// # Errors
    /// [`EngineError::InUse`] when another process holds it.
    pub fn take(run: &RunDir) -> Result<Self, EngineError> {
        let path = run.lock_file();
        let file = open(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(EngineError::InUse { directory: run.root().to_path_buf() }),
            Err(TryLockError::Error(source)) => Err(EngineError::io(&path, "lock", source)),
        }
    }
}

/// Opened for appending: the lock file has no content that could be lost. A link is not followed.
fn open(path: &Path) -> Result<File, EngineError> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
    options.open(path).map_err(|source| EngineError::io(path, "open", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let first = RunLock::take(&run).unwrap();
        let error = RunLock::take(&run).unwrap_err();
        assert!(matches!(error, EngineError::InUse { .. }), "{error}");
        assert_eq!(error.exit_status(), 2);
        drop(first);
        RunLock::take(&run).unwrap();
    }
}
