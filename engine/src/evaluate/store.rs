//! What is answered of a suite that is not finished: `parts/` in its folder. Steps of shards, whole or absent; the same command finds them.
//!
//! ```text
//! parts/settings.json          what the answers depend on, and the time that templates read
//! parts/lock                   locked by the process that works here
//! parts/STEP-00000.jsonl …     answers of some questions each, in their order
//! parts/transcript….jsonl      what a service answered
//! parts/answers….jsonl         what a judge answered that is computed here
//! ```

use std::path::{Path, PathBuf};

use selfplay_model::template_clock;
use selfplay_records::{atomic, read_regular_text};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lines::json_lines;
use super::names::{PARTS, PARTS_LOCK, PARTS_SETTINGS};
use super::own_files::is_part;
use crate::differing::differing;
use crate::error::{EngineError, Result};
use crate::json_file::{read_json, write_json};
use crate::process::file_lock::FileLock;
use crate::run::dir::make_folder;

const CLOCK: &str = "the time that templates read";

/// The folder, locked while it lives.
#[derive(Debug)]
pub(super) struct AnswerStore {
    folder: PathBuf,
    _lock: FileLock,
}

/// An answer with the id of its question.
#[derive(Debug, Serialize, Deserialize)]
struct StoredAnswer<T> {
    id: String,
    answer: T,
}

/// The time at which templates were rendered in an evaluation that is not finished.
pub(super) fn earlier_clock(suite_folder: &Path) -> Option<String> {
    earlier_settings(suite_folder)?.get(CLOCK)?.as_str().map(str::to_owned)
}

/// What the answers of an evaluation that is not finished depend on.
pub(super) fn earlier_settings(suite_folder: &Path) -> Option<Map<String, Value>> {
    read_json(&suite_folder.join(PARTS).join(PARTS_SETTINGS)).ok()
}

impl AnswerStore {
    /// Opens `parts/` of a suite's folder, made where it is absent.
    ///
    /// # Errors
    /// Another process works there; answers that were made with other settings, unless they are to go.
    pub(super) fn open(suite_folder: &Path, depends_on: &Map<String, Value>, force: bool) -> Result<Self> {
        let folder = suite_folder.join(PARTS);
        make_folder(&folder)?;
        let lock = lock(&folder)?;
        let store = Self { folder, _lock: lock };
        let mut settings = depends_on.clone();
        settings.insert(CLOCK.to_owned(), template_clock::now()?.into());
        let file = store.folder.join(PARTS_SETTINGS);
        if file.is_file() {
            let before: Map<String, Value> = read_json(&file)?;
            let keys = differing(&before, &settings);
            if !keys.is_empty() && !force {
                return Err(EngineError::input(format!(
                    "{}: holds answers that were made with other settings ({}); give the command as it was to go on, \
                     or --force to start over",
                    store.folder.display(),
                    keys.join(", ")
                )));
            }
            if force {
                store.clear(true);
            }
        }
        atomic::remove_temporaries(&store.folder)?;
        write_json(&file, &settings)?;
        Ok(store)
    }

    /// The folder, for transcripts.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The answers of a shard to these questions, where they are there.
    ///
    /// # Errors
    /// A file that holds something else.
    pub(super) fn read<T: DeserializeOwned>(
        &self,
        step: &str,
        shard: usize,
        ids: &[String],
    ) -> Result<Option<Vec<T>>> {
        let path = self.path(step, shard);
        let text = match read_regular_text(&path, u64::MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EngineError::io(&path, "read", source)),
        };
        let kept: std::result::Result<Vec<StoredAnswer<T>>, _> =
            text.lines().map(serde_json::from_str).collect();
        match kept {
            Ok(kept) if kept.len() == ids.len() && kept.iter().zip(ids).all(|(kept, id)| kept.id == *id) => {
                Ok(Some(kept.into_iter().map(|kept| kept.answer).collect()))
            }
            _ => Err(EngineError::BadFile {
                path,
                problem:
                    "does not hold the answers of this step; remove the file, and they are asked for again"
                        .to_owned(),
            }),
        }
    }

    /// Writes a shard's answers.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write<T: Serialize>(
        &self,
        step: &str,
        shard: usize,
        ids: &[String],
        answers: &[T],
    ) -> Result<()> {
        let kept = ids.iter().zip(answers).map(|(id, answer)| StoredAnswer { id: id.clone(), answer });
        Ok(atomic::write_bytes(&self.path(step, shard), &json_lines(kept))?)
    }

    fn path(&self, step: &str, shard: usize) -> PathBuf {
        self.folder.join(format!("{step}-{shard:05}.jsonl"))
    }

    /// Removes the folder: the suite is finished. What cannot be removed, or is not ours, stays.
    pub(super) fn remove(self) {
        self.clear(false);
        let _ = std::fs::remove_dir(&self.folder);
    }

    /// Removes our own files.
    fn clear(&self, keeps_lock: bool) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_part(&name) && !(name == PARTS_LOCK && keeps_lock) {
                let _ = std::fs::remove_file(&path);
            }
        }
    }
}

fn lock(folder: &Path) -> Result<FileLock> {
    let path = folder.join(PARTS_LOCK);
    let lock = FileLock::take(&path).map_err(|source| EngineError::io(&path, "lock", source))?;
    lock.ok_or_else(|| EngineError::InUse { directory: folder.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_again_and_only_for_the_same_settings() {
        let folder = tempfile::tempdir().unwrap();
        let settings = |seed: u64| Map::from_iter([("seed".to_owned(), Value::from(seed))]);
        let ids = ["a".to_owned(), "b".to_owned()];
        // The clock of this process is held, as a command does.
        template_clock::fix(&template_clock::now().unwrap()).unwrap();
        let store = AnswerStore::open(folder.path(), &settings(1), false).unwrap();
        assert_eq!(store.read::<f64>("x", 0, &ids).unwrap(), None);
        store.write("x", 0, &ids, &[0.5, -0.1]).unwrap();
        assert!(matches!(
            AnswerStore::open(folder.path(), &settings(1), false),
            Err(EngineError::InUse { .. })
        ));
        drop(store);
        let store = AnswerStore::open(folder.path(), &settings(1), false).unwrap();
        assert_eq!(store.read::<f64>("x", 0, &ids).unwrap(), Some(vec![0.5, -0.1]));
        assert_eq!(store.read::<f64>("x", 0, &ids[..1]).unwrap_err().exit_status(), 2);
        drop(store);
        let error = AnswerStore::open(folder.path(), &settings(2), false).unwrap_err();
        assert!(error.to_string().contains("other settings (seed)"), "{error}");
        let store = AnswerStore::open(folder.path(), &settings(2), true).unwrap();
        assert_eq!(store.read::<f64>("x", 0, &ids).unwrap(), None);
        store.remove();
        assert!(!folder.path().join("parts").exists());
    }
}
