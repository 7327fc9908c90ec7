//! `OUTPUT.parts/`: what a stage command has finished while its output is not yet whole.
//!
//! ```text
//! OUTPUT.parts/
//!   settings.json     what the shards depend on; the same command again finds the same and goes on
//!   sampling.json     of `sample`: device, rows, tokens a step and bytes of cache, for the same command again
//!   transcript.jsonl  of `sample` through a server: its answers; servers.json and probe.json: how near it is to the policy
//!   answers.jsonl     of `score` by a judge, a pair-lm, a pair-ranker or a program: what is answered of unfinished shards
//!   lock              locked by the process that works here
//!   00000.parquet …   finished shards, with their checksums
//! ```
//!
//! A training keeps its checkpoints, logs and reference log-probs there in their place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use selfplay_records::{HasKind, Kind, atomic, read_regular};
use selfplay_trainer::TrainError;
use serde_json::{Map, Value};

use super::own_files::{OwnFolder, remove_parts};
use crate::console::terminal;
use crate::differing::differing;
use crate::error::{EngineError, Result};
use crate::process::file_lock::FileLock;

const SETTINGS: &str = "settings.json";

/// The folder beside an output that is being made. Locked while it lives.
#[derive(Debug)]
pub(in crate::commands) struct Parts {
    folder: PathBuf,
    // Never read: dropping it releases the lock.
    _lock: FileLock,
}

impl Parts {
    /// Opens the folder beside `output`, made where it is absent. `settings` are everything that the shards depend
    /// on; shards made with others are refused, or thrown away with `force`. A folder that holds anything which no stage
    /// command wrote is left as it is.
    pub(in crate::commands) fn open(
        output: &Path,
        settings: &Map<String, Value>,
        force: bool,
    ) -> Result<Self> {
        let folder = folder_of(output);
        check_own(&folder)?;
        atomic::create_dir_all(&folder)?;
        let lock = lock(&folder)?;
        let parts = Self { folder, _lock: lock };
        if let Some(before) = earlier_settings(&parts.folder)? {
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
                parts.clear(Some("lock"))?;
            }
        }
        atomic::remove_temporaries(&parts.folder)?;
        let file = parts.folder.join(SETTINGS);
        let text = serde_json::to_vec_pretty(settings).unwrap_or_default();
        atomic::write_bytes(&file, &text)?;
        Ok(parts)
    }

    /// Removes the folder beside `output`, where there is one.
    ///
    /// # Errors
    /// A folder that is not ours or in use.
    pub(super) fn remove_leftover(output: &Path) -> Result<()> {
        let folder = folder_of(output);
        if !folder.exists() {
            return Ok(());
        }
        check_own(&folder)?;
        let lock = lock(&folder)?;
        Self { folder, _lock: lock }.remove()
    }

    /// Removes the folder: the output is whole. What others have put there meanwhile stays.
    pub(in crate::commands) fn remove(self) -> Result<()> {
        self.clear(None)
    }

    /// Does the stage's work. An error about its rows names their file; wrong input that ended the work before anything was
    /// finished leaves no folder behind.
    pub(in crate::commands) fn during<T>(&self, rows: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let result = work().map_err(|error| of_rows(rows, error));
        if result.as_ref().is_err_and(|error| error.kind() == Kind::Input) && self.has_nothing()? {
            self.clear(None)?;
        }
        result
    }

    /// Whether there is neither a shard nor a training checkpoint nor an answer of a server.
    fn has_nothing(&self) -> Result<bool> {
        let io = |source| EngineError::named(&self.folder, source);
        for entry in fs::read_dir(&self.folder).map_err(io)? {
            let name = entry.map_err(io)?.file_name();
            let name = name.to_string_lossy();
            let answered = name == "transcript.jsonl";
            if answered || name.starts_with("step_") || name.starts_with(|first: char| first.is_ascii_digit())
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes what is ours but for `keep`.
    fn clear(&self, keep: Option<&str>) -> Result<()> {
        let gone =
            remove_parts(&self.folder, keep).map_err(|source| EngineError::named(&self.folder, source))?;
        if !gone && keep.is_none() {
            terminal::line(&format!(
                "{}: is kept, because it holds files that selfplay did not write",
                self.folder.display()
            ));
        }
        Ok(())
    }
}

/// The folder beside an output.
pub(super) fn folder_of(output: &Path) -> PathBuf {
    let mut name = output.file_name().unwrap_or_default().to_os_string();
    name.push(".parts");
    output.with_file_name(name)
}

/// `error` with the file of rows, where it is about one of them.
fn of_rows(file: &Path, error: EngineError) -> EngineError {
    match error {
        EngineError::Score(_) | EngineError::Train(TrainError::Example { .. } | TrainError::Data { .. }) => {
            EngineError::in_file(file, error)
        }
        other => other,
    }
}

/// The settings of the command whose finished parts lie beside `output`, where there are any.
pub(super) fn settings_of(output: &Path) -> Option<Map<String, Value>> {
    let bytes = read_regular(&folder_of(output).join(SETTINGS), u64::MAX).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// One of them.
pub(super) fn setting(output: &Path, key: &str) -> Option<Value> {
    settings_of(output)?.get(key).cloned()
}

/// That a folder which is there is one of ours, whole or killed at its beginning.
fn check_own(folder: &Path) -> Result<()> {
    let io = |source| EngineError::named(folder, source);
    let found = match folder.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(error)),
    };
    let refused = |what: String| {
        Err(EngineError::input(format!(
            "{}: is there and is not selfplay's ({what}); it is what this output needs while it is made: move it away, or \
             name another --output",
            folder.display()
        )))
    };
    if !found.is_dir() {
        return refused(if found.is_symlink() { "a link" } else { "not a folder" }.to_owned());
    }
    let settings = earlier_settings(folder)?;
    match OwnFolder::Parts.foreign(folder).map_err(io)? {
        Some(foreign) => {
            let name = foreign.strip_prefix(folder).unwrap_or(&foreign);
            refused(format!("it holds {}", name.display()))
        }
        None if settings.is_some() => Ok(()),
        // Killed before its settings were written: then nothing was finished.
        None => match first_finished(folder).map_err(io)? {
            Some(name) => refused(format!("it holds {name} and no {SETTINGS}")),
            None => Ok(()),
        },
    }
}

/// What the shards in the folder were made with; `None` where its command was killed before it wrote that down.
fn earlier_settings(folder: &Path) -> Result<Option<Map<String, Value>>> {
    let file = folder.join(SETTINGS);
    let bytes = match read_regular(&file, u64::MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EngineError::named(&file, source)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        EngineError::input(format!(
            "{}: is not what selfplay wrote ({error}); remove {} to start over",
            file.display(),
            folder.display()
        ))
    })
}

/// The first name that is neither the lock nor unfinished.
fn first_finished(folder: &Path) -> io::Result<Option<String>> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name != "lock" && !name.starts_with('.') {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn lock(folder: &Path) -> Result<FileLock> {
    let path = folder.join("lock");
    let lock = FileLock::take(&path).map_err(|source| EngineError::named(&path, source))?;
    lock.ok_or_else(|| {
        EngineError::input(format!(
            "{}: another selfplay process works on this output; wait for it, or name another --output",
            folder.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use selfplay_records::{Preference, write_rows};

    use super::*;
    use crate::run::dir::shard_name;

    fn settings(tau: f64) -> Map<String, Value> {
        [("score.tau".to_owned(), Value::from(tau))].into_iter().collect()
    }

    fn finish_shard(parts: &Parts) {
        write_rows(&parts.folder.join(shard_name(0)), &[] as &[Preference]).unwrap();
    }

    #[test]
    fn shards_are_found_again_under_the_same_settings_only() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        let shard = parts.folder.join(shard_name(0));
        assert!(!shard.exists());
        finish_shard(&parts);
        let second = Parts::open(&output, &settings(0.1), false).unwrap_err();
        assert!(second.to_string().contains("another selfplay process"), "{second}");
        drop(parts);

        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        assert!(shard.exists());
        drop(parts);

        let error = Parts::open(&output, &settings(0.2), false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("score.tau"), "{error}");

        let parts = Parts::open(&output, &settings(0.2), true).unwrap();
        assert!(!shard.exists());
        parts.remove().unwrap();
        assert!(!folder_of(&output).exists());
    }

    #[test]
    fn wrong_input_leaves_a_folder_only_where_something_is_finished() {
        let world = tempfile::tempdir().unwrap();
        let output = world.path().join("out.jsonl");
        let rows = world.path().join("in.jsonl");
        let fails = |parts: &Parts, error: EngineError| -> EngineError {
            parts.during(&rows, || Err::<(), _>(error)).unwrap_err()
        };
        let of_a_row = || {
            let (example, problem, want) = ("pair 3".into(), "it is empty".into(), "tokens".into());
            EngineError::from(TrainError::Example { example, problem, want })
        };
        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        let error = fails(&parts, EngineError::failure("the disk is full"));
        assert!(error.to_string() == "the disk is full" && parts.folder.exists(), "{error}");
        let error = fails(&parts, EngineError::input("sample.top_p = 2"));
        assert!(error.to_string() == "sample.top_p = 2" && !parts.folder.exists(), "{error}");
        drop(parts);

        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        finish_shard(&parts);
        let error = fails(&parts, of_a_row());
        assert!(error.to_string().contains("in.jsonl: pair 3") && parts.folder.exists(), "{error}");
    }

    #[test]
    fn a_folder_of_others_is_left_alone() {
        let world = tempfile::tempdir().unwrap();
        let output = world.path().join("a.jsonl");
        let folder = world.path().join("a.jsonl.parts");
        let refused = |words: &str| {
            for force in [false, true] {
                let error = Parts::open(&output, &settings(0.1), force).unwrap_err();
                assert_eq!(error.exit_status(), 2, "{error}");
                assert!(
                    error.to_string().contains("a.jsonl.parts") && error.to_string().contains(words),
                    "{error}"
                );
            }
        };
        atomic::create_dir_all(&folder.join("thesis")).unwrap();
        atomic::write_bytes(&folder.join("thesis/chapter1"), b"mine").unwrap();
        refused("it holds thesis");
        assert!(folder.join("thesis/chapter1").exists() && !folder.join("lock").exists());
        fs::remove_dir_all(&folder).unwrap();

        // Names of ours without what says that they are.
        atomic::create_dir_all(&folder).unwrap();
        atomic::write_bytes(&folder.join("00000.parquet"), b"mine").unwrap();
        refused("no settings.json");
        fs::remove_dir_all(&folder).unwrap();

        atomic::write_bytes(&folder, b"a file").unwrap();
        refused("not a folder");
        fs::remove_file(&folder).unwrap();

        let mine = world.path().join("mine");
        atomic::create_dir_all(&mine).unwrap();
        std::os::unix::fs::symlink(&mine, &folder).unwrap();
        refused("a link");
        assert_eq!(fs::read_dir(&mine).unwrap().count(), 0);
    }

    #[test]
    fn only_a_folder_that_says_so_was_killed_at_its_beginning() {
        let world = tempfile::tempdir().unwrap();
        let output = world.path().join("a.jsonl");
        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        finish_shard(&parts);
        let folder = parts.folder.clone();
        drop(parts);
        let file = folder.join("settings.json");
        let whole = fs::read(&file).unwrap();

        // It cannot be read: a link to itself stands for every error but one.
        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("settings.json", &file).unwrap();
        let error = Parts::open(&output, &settings(0.1), true).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{error}");
        assert!(folder.join("00000.parquet").exists());

        fs::remove_file(&file).unwrap();
        atomic::write_bytes(&file, &whole[..whole.len() / 2]).unwrap();
        let error = Parts::open(&output, &settings(0.1), true).unwrap_err();
        assert_eq!(error.exit_status(), 2, "{error}");
        assert!(folder.join("00000.parquet").exists());

        fs::remove_file(&file).unwrap();
        fs::remove_file(folder.join("00000.parquet")).unwrap();
        atomic::write_bytes(&folder.join(".settings.json.tmp-4"), b"{").unwrap();
        let parts = Parts::open(&output, &settings(0.1), false).unwrap();
        assert!(!folder.join(".settings.json.tmp-4").exists());
        atomic::write_bytes(&folder.join("notes"), b"mine").unwrap();
        parts.remove().unwrap();
        assert!(folder.join("notes").exists() && !folder.join("settings.json").exists());
    }
}
