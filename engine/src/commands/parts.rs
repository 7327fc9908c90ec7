//! `OUTPUT.parts/`: what a stage command has finished while its output is not yet whole.
//!
//! ```text
//! OUTPUT.parts/
//!   settings.json     what the shards depend on; the same command again finds the same and goes on
//!   sampling.json     of `sample`: device, rows, tokens a step and bytes of cache, for the same command again
//!   lock              locked by the process that works here
//!   00000.jsonl …     finished shards
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};

use selfplay_records::{HasKind, Kind, Row, atomic, read_rows, write_rows};
use serde_json::{Map, Value};

use crate::error::{EngineError, Result};

/// The folder beside an output that is being made. Locked while it lives.
#[derive(Debug)]
pub(super) struct Parts {
    folder: PathBuf,
    // Never read: dropping it releases the lock.
    _lock: File,
}

impl Parts {
    /// Opens the folder beside `output`, made where it is absent. `settings` are everything that the shards depend
    /// on; shards made with others are refused, or thrown away with `force`.
    pub(super) fn open(output: &Path, settings: &Map<String, Value>, force: bool) -> Result<Self> {
        let mut name = output.file_name().unwrap_or_default().to_os_string();
        name.push(".parts");
        let folder = output.with_file_name(name);
        atomic::create_dir_all(&folder)?;
        let lock = lock(&folder)?;
        let parts = Self { folder, _lock: lock };
        let file = parts.folder.join("settings.json");
        match fs::read(&file) {
            Ok(bytes) => {
                let before: Map<String, Value> = serde_json::from_slice(&bytes).unwrap_or_default();
                let keys = differing(&before, settings);
                if !keys.is_empty() && !force {
                    return Err(EngineError::input(format!(
                        "{}: holds what the same output had finished with other settings ({}); give the command as it \
                         was to go on, or --force to start over",
                        parts.folder.display(),
                        keys.join(", ")
                    )));
                }
                if !keys.is_empty() {
                    parts.empty()?;
                }
            }
            // A folder without settings was made by a command that was killed before its first shard.
            Err(_) => parts.empty()?,
        }
        atomic::remove_temporaries(&parts.folder)?;
        let text = serde_json::to_vec_pretty(settings).unwrap_or_default();
        atomic::write_bytes(&file, &text)?;
        Ok(parts)
    }

    /// The folder itself.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The rows of a shard that an earlier command finished.
    pub(super) fn shard<R: Row>(&self, number: usize) -> Result<Option<Vec<R>>> {
        let path = self.shard_path(number);
        if !path.is_file() {
            return Ok(None);
        }
        Ok(Some(read_rows(&path)?))
    }

    /// Keeps a finished shard.
    pub(super) fn keep<R: Row>(&self, number: usize, rows: &[R]) -> Result<()> {
        Ok(write_rows(&self.shard_path(number), rows)?)
    }

    /// Where `sample` keeps what the device had when it began.
    pub(super) fn sampling_file(&self) -> PathBuf {
        self.folder.join("sampling.json")
    }

    /// Removes the folder: the output is whole.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|source| EngineError::named(&self.folder, source))
    }

    /// Removes the folder where wrong input ended the command before anything in it was finished.
    pub(super) fn after<T>(&self, result: Result<T>) -> Result<T> {
        if result.as_ref().is_err_and(|error| error.kind() == Kind::Input) && self.has_nothing()? {
            fs::remove_dir_all(&self.folder).map_err(|source| EngineError::named(&self.folder, source))?;
        }
        result
    }

    /// Whether there is neither a shard nor a training checkpoint.
    fn has_nothing(&self) -> Result<bool> {
        let io = |source| EngineError::named(&self.folder, source);
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let name = name.to_string_lossy();
            if name.starts_with("step_") || name.starts_with(|first: char| first.is_ascii_digit()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn shard_path(&self, number: usize) -> PathBuf {
        self.folder.join(format!("{number:05}.jsonl"))
    }

    /// Removes everything but the lock.
    fn empty(&self) -> Result<()> {
        let io = |source| EngineError::named(&self.folder, source);
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.file_name().is_some_and(|name| name == "lock") {
                continue;
            }
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(|source| EngineError::named(&path, source))?;
        }
        Ok(())
    }
}

/// One of the settings of the command whose finished parts lie beside `output`, where there are any.
pub(super) fn setting(output: &Path, key: &str) -> Option<Value> {
    let mut name = output.file_name()?.to_os_string();
    name.push(".parts");
    let bytes = fs::read(output.with_file_name(name).join("settings.json")).ok()?;
    let settings: Map<String, Value> = serde_json::from_slice(&bytes).ok()?;
    settings.get(key).cloned()
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let open = OpenOptions::new().create(true).append(true).open(&path);
    let file = open.map_err(|source| EngineError::named(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EngineError::input(format!(
            "{}: another selfplay process works on this output; wait for it, or name another --output",
            folder.display()
        ))),
        Err(TryLockError::Error(source)) => Err(EngineError::named(&path, source)),
    }
}

/// Names of the keys that are not the same on both sides.
fn differing(before: &Map<String, Value>, now: &Map<String, Value>) -> Vec<String> {
    let mut keys: Vec<String> = now.keys().chain(before.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    keys.retain(|key| before.get(key) != now.get(key));
    keys
}

#[cfg(test)]
mod tests {
    use selfplay_records::Preference;

    use super::*;

    fn settings(tau: f64) -> Map<String, Value> {
        [("score.tau".to_owned(), Value::from(tau))].into_iter().collect()
    }

    fn row() -> Preference {
        Preference { prompt_id: "a".into(), scores: vec![vec![0.0]], ..Preference::default() }
    }

    #[test]
    fn shards_are_found_again_under_the_same_settings_only() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        assert!(parts.shard::<Preference>(0).unwrap().is_none());
        let row = Preference {
            probabilities: vec![vec![0.5]],
            mean_scores: vec![0.0],
            mean_probabilities: vec![0.5],
            ..row()
        };
        parts.keep(0, std::slice::from_ref(&row)).unwrap();
        let second = Parts::open(&output, &settings(0.1), false).unwrap_err();
        assert!(second.to_string().contains("another selfplay process"), "{second}");
        drop(parts);

        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        assert_eq!(parts.shard::<Preference>(0).unwrap(), Some(vec![row]));
        drop(parts);

        let error = Parts::open(&output, &settings(0.2), false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("score.tau"), "{error}");

        let parts = Parts::open(&output, &settings(0.2), true).unwrap();
        let failed: Result<()> = parts.after(Err(EngineError::failure("the disk is full")));
        assert!(failed.is_err() && parts.folder().exists());
        assert!(parts.shard::<Preference>(0).unwrap().is_none());
        parts.remove().unwrap();
        assert!(!folder.path().join("out.jsonl.parts").exists());
    }
}
