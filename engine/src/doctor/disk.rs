//! Where runs and the hub's files are written: whether that works, how fast, how much is left.

use std::env;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use selfplay_records::atomic;

use super::finding::{Finding, Health};
use crate::console::units::size;
use crate::hub;

/// What is written to measure, synced.
const WRITTEN: usize = 32 << 20;

/// A policy of 8 billion parameters in 16 bits, and its checkpoint, take more.
const LITTLE_SPACE: u64 = 20_000_000_000;

/// Bytes a second below which checkpoints are waited for.
const SLOW: f64 = 100e6;

/// The working directory and the hub's cache.
pub(super) fn findings() -> Vec<Finding> {
    let here = env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let mut findings = vec![folder("disk", &here, true)];
    findings.push(match hub::cache_folder() {
        Ok(cache) => {
            let place = nearest(&cache);
            let mut finding = folder("HF_HOME", &place, false);
            finding.found = format!("{}: {}", cache.display(), finding.found);
            finding
        }
        Err(error) => Finding::of(
            "HF_HOME",
            Health::Warning,
            error.to_string(),
            "set HF_HOME to a folder with room for models",
        ),
    });
    findings
}

/// The folder, or the nearest one above it that is there.
fn nearest(folder: &Path) -> PathBuf {
    let found = folder.ancestors().find(|one| one.is_dir());
    found.filter(|one| !one.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

fn folder(what: &'static str, place: &Path, measured: bool) -> Finding {
    let broken = if measured { Health::Broken } else { Health::Warning };
    let size_of_trial = if measured { WRITTEN } else { 1 };
    let speed = match trial(place, size_of_trial) {
        Ok(seconds) => size_of_trial as f64 / seconds.max(1e-6),
        Err(problem) => {
            let advice = match measured {
                true => "work in a folder that can be written",
                false => "set HF_HOME to a folder that can be written",
            };
            return Finding::of(what, broken, problem, advice);
        }
    };
    let free = free_bytes(place);
    let mut found = match free {
        Some(free) => format!("{} free", size(free)),
        None => "can be written".to_owned(),
    };
    if measured {
        found.push_str(&format!(", writes {}/s", size(speed as u64)));
    }
    if free.is_some_and(|free| free < LITTLE_SPACE) {
        let advice =
            "little room: selfplay plan says what a run takes; candidates and checkpoints are the most of it";
        return Finding::of(what, Health::Warning, found, advice);
    }
    if measured && speed < SLOW {
        let advice = "slow: a checkpoint of gigabytes is waited for; put runs on a local disk with -o DIR";
        return Finding::of(what, Health::Warning, found, advice);
    }
    Finding::ok(what, found)
}

/// Writes a file, syncs it and removes it: the seconds that took.
fn trial(folder: &Path, bytes: usize) -> Result<f64, String> {
    let file = folder.join(format!(".selfplay-doctor-{}", std::process::id()));
    // Not zeros: a file system may leave those out.
    let data: Vec<u8> = (0..bytes as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let started = Instant::now();
    let written = atomic::write_bytes(&file, &data);
    let seconds = started.elapsed().as_secs_f64();
    let _ = std::fs::remove_file(&file);
    written.map(|()| seconds).map_err(|error| error.to_string())
}

/// Bytes that this user can still write there.
fn free_bytes(folder: &Path) -> Option<u64> {
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: the structure is plain numbers, the path ends with a zero, and the call writes nothing but the structure.
    let found = unsafe {
        let mut found: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut found) == 0).then_some(found)
    }?;
    #[allow(clippy::unnecessary_cast, reason = "the fields' widths differ between systems")]
    Some((found.f_bavail as u64).saturating_mul(found.f_frsize as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_tried_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        assert!(trial(folder.path(), 10).is_ok());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(free_bytes(folder.path()).is_some_and(|free| free > 0));
        assert!(trial(&folder.path().join("absent/below"), 1).is_err());
        assert_eq!(nearest(&folder.path().join("absent/below")), folder.path());
    }
}
