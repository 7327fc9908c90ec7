//! One process per run folder: the lock on `run.lock`.

use crate::error::EngineError;
use crate::process::file_lock::FileLock;
use crate::run::dir::RunDir;

/// Held as long as this value lives.
#[derive(Debug)]
pub struct RunLock {
    _lock: FileLock,
}

impl RunLock {
    /// Takes the lock of a run folder that exists.
    ///
    /// # Errors
    /// [`EngineError::InUse`] when another process holds it.
    pub fn take(run: &RunDir) -> Result<Self, EngineError> {
        let path = run.lock_file();
        match FileLock::take(&path).map_err(|source| EngineError::io(&path, "lock", source))? {
            Some(lock) => Ok(Self { _lock: lock }),
            None => Err(EngineError::InUse { directory: run.root().to_path_buf() }),
        }
    }
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
