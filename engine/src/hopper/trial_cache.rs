//! Where the result of a trial is kept, and what it is good for: one program, its kernels, one kind of GPU, one driver.
//!
//! ```text
//! ~/.cache/selfplay/hopper/nvidia-h200-0123456789abcdef.json    a name of the GPU, and the hash of all that it is good for
//! ```
//!
//! A cache that cannot be read or written costs another trial, and fails nothing.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use selfplay_model::check::hopper_sources;
use selfplay_records::counter::fnv1a_64;
use selfplay_records::{atomic, read_regular_text};
use serde::{Deserialize, Serialize};

use super::verdict::HopperVerdict;
use crate::error::Result;
use crate::json_file::write_json;
use crate::process::nvidia_driver::NvidiaDriver;

/// A file of ours has some kilobytes.
const MOST_BYTES: u64 = 1 << 18;

/// For how long a trial that failed is not made again: each may take a minute.
const FAILURE_SECONDS: u64 = 24 * 3600;

/// What a trial is good for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TrialKey {
    /// The program's version.
    pub(super) selfplay: String,
    /// A hash of the kernels, of the image that they were compiled to, and of what launches them.
    pub(super) kernels: String,
    /// The GPU's name.
    pub(super) gpu: String,
    /// The driver's version.
    pub(super) driver: String,
}

/// What a trial ended with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TrialOutcome {
    /// With a verdict.
    Verdict(HopperVerdict),
    /// Without one: why.
    Failed(String),
}

/// A trial with what it is good for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct KeptTrial {
    #[serde(flatten)]
    pub(super) key: TrialKey,
    /// Seconds since 1970 when it was made.
    pub(super) tried: u64,
    pub(crate) outcome: TrialOutcome,
}

/// Folders, of which the first that can be written keeps a trial; all are looked at.
#[derive(Clone, Debug)]
pub(super) struct TrialCache {
    pub(super) folders: Vec<PathBuf>,
}

impl TrialKey {
    /// Of this program on a GPU of this name, on this machine.
    pub(super) fn of(gpu: String) -> Self {
        let sources: Vec<&str> = hopper_sources().collect();
        let driver = NvidiaDriver::of_machine().and_then(|driver| driver.version);
        Self {
            selfplay: env!("CARGO_PKG_VERSION").to_owned(),
            kernels: format!("{:016x}", fnv1a_64(sources.concat().as_bytes())),
            gpu,
            driver: driver.unwrap_or_else(|| "unknown".to_owned()),
        }
    }

    fn file_name(&self) -> String {
        let letters = self.gpu.to_lowercase();
        let words: Vec<&str> =
            letters.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
        let all = [&self.selfplay, &self.kernels, &self.gpu, &self.driver].map(String::as_str).join("\n");
        format!("{}-{:016x}.json", words.join("-"), fnv1a_64(all.as_bytes()))
    }
}

impl KeptTrial {
    /// One that was made now.
    pub(super) fn now(key: TrialKey, outcome: TrialOutcome) -> Self {
        Self { key, tried: seconds_now(), outcome }
    }

    /// Whether it still counts: a failure does for a day.
    fn counts(&self, now: u64) -> bool {
        match &self.outcome {
            TrialOutcome::Verdict(verdict) => verdict.check().is_ok(),
            TrialOutcome::Failed(_) => now.abs_diff(self.tried) < FAILURE_SECONDS,
        }
    }
}

impl TrialCache {
    /// The trial that was made for this; `None` where there is none that counts.
    pub(super) fn find(&self, key: &TrialKey) -> Option<KeptTrial> {
        self.find_at(key, seconds_now())
    }

    fn find_at(&self, key: &TrialKey, now: u64) -> Option<KeptTrial> {
        self.folders.iter().find_map(|folder| {
            let text = read_regular_text(&folder.join(key.file_name()), MOST_BYTES).ok()?;
            let found: KeptTrial = serde_json::from_str(&text).ok()?;
            (found.key == *key && found.counts(now)).then_some(found)
        })
    }

    /// Keeps a trial; where that was.
    pub(super) fn keep(&self, trial: &KeptTrial) -> Option<PathBuf> {
        self.folders.iter().find_map(|folder| {
            let path = folder.join(trial.key.file_name());
            let kept = || -> Result<()> {
                atomic::create_dir_all(folder)?;
                write_json(&path, trial)
            };
            match kept() {
                Ok(()) => Some(path),
                Err(error) => {
                    tracing::debug!("the trial of Hopper's kernels is not kept there: {error}");
                    None
                }
            }
        })
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
pub(super) fn key_of(gpu: &str) -> TrialKey {
    TrialKey::of(gpu.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::verdict::verdict_of_speeds;
    use super::*;

    #[test]
    fn a_trial_is_found_by_all_that_it_is_good_for() {
        let folder = tempfile::tempdir().unwrap();
        let cache = TrialCache { folders: vec![folder.path().join("a/b")] };
        let key = key_of("NVIDIA H200");
        assert_eq!(cache.find(&key), None);
        let trial = KeptTrial::now(key.clone(), TrialOutcome::Verdict(verdict_of_speeds(|_| 1.5)));
        let path = cache.keep(&trial).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.starts_with("nvidia-h200-") && path.starts_with(folder.path().join("a/b")), "{name}");
        assert_eq!(cache.find(&key), Some(trial.clone()));
        let text = |part: &str| format!("{part} other");
        for other in [
            TrialKey { selfplay: text(&key.selfplay), ..key.clone() },
            TrialKey { kernels: text(&key.kernels), ..key.clone() },
            TrialKey { gpu: text(&key.gpu), ..key.clone() },
            TrialKey { driver: text(&key.driver), ..key.clone() },
        ] {
            assert_eq!(cache.find(&other), None, "{other:?}");
            // A file of the right name with another's content.
            atomic::write_bytes(
                &folder.path().join("a/b").join(other.file_name()),
                &std::fs::read(&path).unwrap(),
            )
            .unwrap();
            assert_eq!(cache.find(&other), None, "{other:?}");
        }
        for broken in ["", "{", "{\"selfplay\": 1}"] {
            atomic::write_bytes(&path, broken.as_bytes()).unwrap();
            assert_eq!(cache.find(&key), None, "{broken:?}");
        }
    }

    #[test]
    fn a_failure_counts_for_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let cache = TrialCache { folders: vec![folder.path().to_path_buf()] };
        let key = key_of("NVIDIA H100");
        let failed = KeptTrial::now(key.clone(), TrialOutcome::Failed("it hung".to_owned()));
        cache.keep(&failed).unwrap();
        assert_eq!(cache.find_at(&key, failed.tried + 3600), Some(failed.clone()));
        assert_eq!(cache.find_at(&key, failed.tried + 25 * 3600), None);
        // A clock that was years ahead.
        assert_eq!(cache.find_at(&key, failed.tried - 25 * 3600), None);
    }

    #[test]
    fn where_a_folder_cannot_be_written_the_next_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        atomic::write_bytes(&file, b"mine").unwrap();
        let trial = KeptTrial::now(key_of("G"), TrialOutcome::Failed("it hung".to_owned()));
        let none = TrialCache { folders: vec![file.join("below")] };
        assert_eq!((none.keep(&trial), none.find(&trial.key)), (None, None));
        let second = TrialCache { folders: vec![file.join("below"), folder.path().join("second")] };
        assert!(second.keep(&trial).is_some());
        assert_eq!(second.find(&trial.key), Some(trial));
    }
}
