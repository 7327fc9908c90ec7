//! One trial of a machine at a time: two would take each other's time, and the second finds what the first has kept.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::process::file_lock::FileLock;

/// Between two looks.
const TICK: Duration = Duration::from_millis(50);

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nobody else tries while the lock lives; without one where the file can't be locked.
    Own(Option<FileLock>),
    /// Others have tried for too long.
    Late,
}

/// The file that processes of this user lock, on this machine alone.
pub(super) fn lock_file() -> PathBuf {
    // SAFETY: a system call without arguments, which cannot fail.
    let user = unsafe { libc::geteuid() };
    std::env::temp_dir().join(format!("selfplay-hopper-{user}.lock"))
}

/// Waits until nobody else tries, for `patience` at most.
///
/// # Errors
/// What `watch` says.
pub(super) fn await_turn(
    path: &Path,
    patience: Duration,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<Turn> {
    let until = Instant::now() + patience;
    loop {
        match FileLock::take(path) {
            Ok(Some(lock)) => return Ok(Turn::Own(Some(lock))),
            Ok(None) if Instant::now() >= until => return Ok(Turn::Late),
            Ok(None) => {}
            Err(error) => {
                tracing::debug!("{}: cannot be locked ({error})", path.display());
                return Ok(Turn::Own(None));
            }
        }
        watch()?;
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EngineError;

    #[test]
    fn a_turn_comes_when_the_other_s_ends_and_not_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let short = Duration::from_millis(120);
        let mut never = || Ok(());
        let Turn::Own(Some(held)) = await_turn(&path, short, &mut never).unwrap() else {
            panic!("nobody has it")
        };
        assert!(matches!(await_turn(&path, short, &mut never).unwrap(), Turn::Late));
        let mut stopped = || Err(EngineError::failure("stop"));
        assert!(await_turn(&path, Duration::from_secs(60), &mut stopped).is_err());
        let waits = thread::spawn({
            let path = path.clone();
            move || await_turn(&path, Duration::from_secs(60), &mut || Ok(())).unwrap()
        });
        thread::sleep(short);
        drop(held);
        assert!(matches!(waits.join().unwrap(), Turn::Own(Some(_))));
        // A place where nothing can be locked is no reason not to try.
        let none = folder.path().join("absent/lock");
        assert!(matches!(await_turn(&none, short, &mut never).unwrap(), Turn::Own(None)));
    }
}
