//! Temporaries of [`crate::atomic`]: what unfinished files and folders are called, and what becomes of those that killed
//! processes left.
//!
//! A process locks each temporary while it lives, so that one without a lock is known to be left over; the operating
//! system takes the lock of a killed process away, whichever container or machine it ran in.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::WriteError;
use crate::fault::operation;

/// See [`number_writer`].
static WRITER: AtomicUsize = AtomicUsize::new(0);

/// Tells this process's temporaries apart from those of the other processes that write into the same folders: on several machines, or
/// in containers, two of them may have the same process id. 0 is the number of a process that was never given one.
pub fn number_writer(number: usize) {
    WRITER.store(number, Ordering::Relaxed);
}

/// Locks a temporary's file or folder for as long as `file` is open. Where the file system has no locks,
/// [`remove_leftovers`] takes nothing away either.
pub(crate) fn hold(file: &File) {
    let _ = file.try_lock();
}

/// Removes the temporaries of the output `path` that killed processes left beside it, as far as that is possible: an
/// unfinished model is as large as a whole one.
///
/// Returns how many were removed. Those of live processes and of other outputs stay.
pub fn remove_leftovers(path: &Path) -> usize {
    let (Some(name), Some(folder)) = (path.file_name(), path.parent()) else { return 0 };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let start = temporary_start(name);
    let is_of_path = |found: &OsStr| {
        is_temporary(found)
            && found.as_encoded_bytes().strip_prefix(start.as_encoded_bytes()).is_some_and(is_number)
    };
    let leftovers = entries.flatten().filter(|entry| is_of_path(&entry.file_name()));
    leftovers.filter(|entry| remove_unlocked(&entry.path()).is_ok_and(|removed| removed)).count()
}

/// Removes the temporaries in `folder` (not below it) that no live process holds, as far as that is possible: in a folder into which
/// several processes write, one of them may have been killed. Returns how many were removed.
pub fn remove_unheld(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let temporaries = entries.flatten().filter(|entry| is_temporary(&entry.file_name()));
    temporaries.filter(|entry| remove_unlocked(&entry.path()).is_ok_and(|removed| removed)).count()
}

/// Whether a temporary was removed: no process held it.
fn remove_unlocked(path: &Path) -> io::Result<bool> {
    let found = path.symlink_metadata()?;
    if !(found.is_dir() || found.is_file()) {
        return Ok(false);
    }
    let file = File::open(path)?;
    if file.try_lock().is_err() {
        return Ok(false);
    }
    if found.is_dir() {
        std::fs::remove_dir_all(path)?
    } else {
        std::fs::remove_file(path)?
    }
    Ok(true)
}

/// Removes what killed processes left in `folder` (not below it): files and folders named `.NAME.tmp-PID`.
///
/// To be called by the holder of the folder's lock only: another live process's temporaries look the same.
/// Returns how many were removed; a folder that is not there has none.
///
/// # Errors
/// The error of the file system.
pub fn remove_temporaries(folder: &Path) -> Result<usize, WriteError> {
    remove_temporaries_in(folder).map_err(WriteError::at(folder, "remove unfinished files"))
}

fn remove_temporaries_in(folder: &Path) -> io::Result<usize> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !is_temporary(&entry.file_name()) {
            continue;
        }
        operation()?;
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
        removed += 1;
    }
    Ok(removed)
}

/// `FOLDER/.NAME.tmp-PID`.
pub(crate) fn temporary_sibling(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it has no file name"));
    };
    let mut temporary = temporary_start(name);
    temporary.push(std::process::id().to_string());
    match WRITER.load(Ordering::Relaxed) {
        0 => {}
        // Digits alone, as readers of the name expect.
        writer => temporary.push(format!("{writer:06}")),
    }
    Ok(path.with_file_name(temporary))
}

/// `.NAME.tmp-`, as the temporaries of a name begin.
fn temporary_start(name: &OsStr) -> OsString {
    let mut start = OsString::from(".");
    start.push(name);
    start.push(".tmp-");
    start
}

pub(crate) fn is_temporary(name: &OsStr) -> bool {
    let Some((start, number)) = name.to_str().and_then(|name| name.rsplit_once(".tmp-")) else {
        return false;
    };
    start.len() > 1 && start.starts_with('.') && is_number(number.as_bytes())
}

fn is_number(digits: &[u8]) -> bool {
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;

    #[test]
    fn leftovers_of_one_output_go_and_live_ones_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in [
            ".o.jsonl.tmp-1",
            ".o.jsonl.tmp-4194305",
            ".o.jsonl.tmp-x",
            ".other.jsonl.tmp-1",
            ".p.o.jsonl.tmp-1",
        ] {
            atomic::write_bytes(&path(name), b"half").unwrap();
        }
        std::fs::create_dir_all(path(".o.jsonl.tmp-3/policy")).unwrap();
        let live = File::open(path(".o.jsonl.tmp-1")).unwrap();
        hold(&live);
        assert_eq!(remove_leftovers(&path("o.jsonl")), 2);
        let mut names: Vec<String> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, [".o.jsonl.tmp-1", ".o.jsonl.tmp-x", ".other.jsonl.tmp-1", ".p.o.jsonl.tmp-1"]);
        drop(live);
        assert_eq!(remove_leftovers(&path("o.jsonl")), 1);
        let live = File::open(path(".other.jsonl.tmp-1")).unwrap();
        hold(&live);
        assert_eq!(remove_unheld(folder.path()), 1, "of every output, but not what is held");
        assert!(path(".other.jsonl.tmp-1").exists() && path(".o.jsonl.tmp-x").exists());
        drop(live);
        assert_eq!(remove_unheld(folder.path()), 1);
        assert_eq!(remove_leftovers(&path("absent/o.jsonl")), 0);
    }

    #[test]
    fn what_is_being_written_is_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("o.jsonl");
        atomic::write(&path, |sink| {
            assert_eq!(remove_leftovers(&path), 0);
            sink.write_all(b"whole")
        })
        .unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        let output = folder.path().join("policy");
        atomic::write_dir(&output, |_| {
            assert_eq!(remove_leftovers(&output), 0);
            Ok::<(), WriteError>(())
        })
        .unwrap();
        assert!(output.is_dir());
    }
}
