//! The output's folder: whose it is, locked while it is worked in, and finished by `counts.json`.
//!
//! ```text
//! DIR/
//!   settings.json                         what everything here depends on
//!   lock                                  locked by the process that works here
//!   steps/, transcripts/                  replies, kept after the end as well: where a row came from
//!   instructions.jsonl or pairs.jsonl     the rows that are kept
//!   prompts.jsonl                         their prompts
//!   left_out.jsonl                        the others, each with the reason
//!   counts.json                           written last
//! ```

use std::path::{Path, PathBuf};

use selfplay_records::{atomic, read_regular};
use serde_json::{Map, Value};

use super::counts::SynthesisCounts;
use super::row::{LeftOut, SynthesizedRow};
use crate::differing::differing;
use crate::error::{EngineError, Result};
use crate::own_names::{finished_name, is_step_shard};
use crate::process::file_lock::FileLock;
use crate::recipe::SynthesizeSection;

/// The time that chat templates read, in `settings.json`.
pub(super) const CLOCK_KEY: &str = "the time that templates read";

const SETTINGS: &str = "settings.json";
const LOCK: &str = "lock";
const COUNTS: &str = "counts.json";
const LEFT_OUT: &str = "left_out.jsonl";
const PROMPTS: &str = "prompts.jsonl";
const INSTRUCTIONS: &str = "instructions.jsonl";
const PAIRS: &str = "pairs.jsonl";
const FILES: [&str; 6] = [SETTINGS, COUNTS, LEFT_OUT, PROMPTS, INSTRUCTIONS, PAIRS];
const FOLDERS: [&str; 2] = ["steps", "transcripts"];

/// The time that templates read in an earlier process of this synthesis, where there was one.
pub(crate) fn earlier_clock(folder: &Path) -> Option<String> {
    earlier_settings(folder)?.get(CLOCK_KEY)?.as_str().map(str::to_owned)
}

/// What an earlier process of this synthesis began with, where there was one.
pub(crate) fn earlier_settings(folder: &Path) -> Option<Map<String, Value>> {
    settings(folder).ok()?
}

/// The folder, locked while this lives.
#[derive(Debug)]
pub(super) struct SynthesisFolder {
    root: PathBuf,
    _lock: FileLock,
}

impl SynthesisFolder {
    /// Opens the folder, made where it is absent. `depends_on` is everything that the replies in it depend on.
    ///
    /// # Errors
    /// A folder that another process works in, that holds what is not a synthesis's, that is finished, or that was begun with
    /// other settings; the last two without `force`, which begins again.
    pub(super) fn open(root: &Path, depends_on: &Map<String, Value>, force: bool) -> Result<Self> {
        let input = |what: String| Err(EngineError::input(format!("{}: {what}", root.display())));
        if root.is_symlink() || (root.exists() && !root.is_dir()) {
            return input("is there and is no folder; name another one with -o".to_owned());
        }
        if root.is_dir()
            && let Some(foreign) = foreign(root)?
        {
            return input(format!(
                "holds {foreign}, which no synthesis writes; name a folder that does not exist with -o"
            ));
        }
        let before = settings(root)?;
        // The settings are written first: what is there without them is another's, whatever it is called.
        let is_there = |name: &&&str| **name != SETTINGS && root.join(name).symlink_metadata().is_ok();
        if before.is_none()
            && let Some(name) = FILES.iter().chain(&FOLDERS).find(is_there)
        {
            return input(format!(
                "holds {name} and no {SETTINGS}, as a synthesis writes it; name a folder that does not exist with -o"
            ));
        }
        atomic::create_dir_all(root)?;
        let lock = lock(root)?;
        // Another process may have begun here since.
        let before = settings(root)?;
        let differing = before.as_ref().map_or_else(Vec::new, |before| differing(before, depends_on));
        if !differing.is_empty() && !force {
            return input(format!(
                "belongs to another synthesis; what differs: {}; name another folder with -o, or --force to begin again",
                differing.join(", ")
            ));
        }
        if root.join(COUNTS).is_file() && !force {
            return input(format!(
                "is finished; read {COUNTS} there, name another folder with -o, or --force to begin again"
            ));
        }
        if force {
            clear(root)?;
        }
        atomic::remove_temporaries(root)?;
        // Values of JSON always have a text.
        let text = serde_json::to_vec_pretty(depends_on).unwrap_or_default();
        atomic::write_bytes(&root.join(SETTINGS), &text)?;
        Ok(Self { root: root.to_path_buf(), _lock: lock })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Writes the rows, and `counts.json` last, unless no row is kept.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn finish(
        &self,
        section: &SynthesizeSection,
        kept: &[SynthesizedRow],
        left_out: &[LeftOut],
        counts: &SynthesisCounts,
    ) -> Result<()> {
        let method = section.method.name();
        let rows = if section.method.makes_pairs() { PAIRS } else { INSTRUCTIONS };
        self.write(rows, kept.iter().map(|row| row.to_json(method)))?;
        self.write(PROMPTS, kept.iter().map(SynthesizedRow::prompt_json))?;
        self.write(LEFT_OUT, left_out.iter().map(|row| row.to_json(method)))?;
        // With nothing kept there is nothing to go on with: it isn't finished, whoever asks by this file.
        if kept.is_empty() {
            return Ok(());
        }
        let mut text = serde_json::to_vec_pretty(counts).unwrap_or_default();
        text.push(b'\n');
        Ok(atomic::write_bytes(&self.root.join(COUNTS), &text)?)
    }

    fn write(&self, name: &str, rows: impl Iterator<Item = Value>) -> Result<()> {
        let mut rows = rows;
        Ok(atomic::write(&self.root.join(name), |sink| rows.try_for_each(|row| writeln!(sink, "{row}")))?)
    }
}

/// The first name in the folder that is not ours.
fn foreign(root: &Path) -> Result<Option<String>> {
    let failed = |source| EngineError::named(root, source);
    for entry in std::fs::read_dir(root).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (kind, name) = (entry.file_type().map_err(failed)?, entry.file_name());
        let name = name.to_string_lossy().into_owned();
        let ours = if kind.is_dir() {
            if let Some(below) = foreign_reply(&entry.path(), &name).map_err(failed)? {
                return Ok(Some(below));
            }
            FOLDERS.contains(&name.as_str())
        } else {
            kind.is_file()
                && (FILES.contains(&name.as_str())
                    || name == LOCK
                    || FILES.iter().any(|file| name.starts_with(&format!(".{file}.tmp-"))))
        };
        if !ours {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// The first thing in a folder of replies, of this name, that is not ours: `steps/` holds shards, `transcripts/` logs.
fn foreign_reply(folder: &Path, name: &str) -> std::io::Result<Option<String>> {
    let Some(place) = FOLDERS.iter().position(|known| *known == name) else { return Ok(None) };
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let below = entry.file_name().to_string_lossy().into_owned();
        let file = finished_name(&below);
        let is_known = if place == 0 { is_step_shard(file) } else { file.ends_with(".jsonl") };
        if !is_known || !entry.file_type()?.is_file() {
            return Ok(Some(format!("{name}/{below}")));
        }
    }
    Ok(None)
}

/// Removes what an earlier synthesis wrote, `counts.json` first: a kill in between leaves an unfinished one.
fn clear(root: &Path) -> Result<()> {
    for name in [COUNTS, PAIRS, INSTRUCTIONS, PROMPTS, LEFT_OUT] {
        let file = root.join(name);
        if file.exists() {
            std::fs::remove_file(&file).map_err(|source| EngineError::io(&file, "remove", source))?;
        }
    }
    for name in FOLDERS {
        let folder = root.join(name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|source| EngineError::io(&folder, "remove", source))?;
        }
    }
    Ok(())
}

fn settings(root: &Path) -> Result<Option<Map<String, Value>>> {
    let path = root.join(SETTINGS);
    let bytes = match read_regular(&path, u64::MAX) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EngineError::io(&path, "read", source)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| EngineError::BadFile {
        path: path.clone(),
        problem: format!("is not what selfplay wrote ({error}); name another folder with -o"),
    })
}

fn lock(root: &Path) -> Result<FileLock> {
    let path = root.join(LOCK);
    let lock = FileLock::take(&path).map_err(|source| EngineError::io(&path, "lock", source))?;
    lock.ok_or_else(|| EngineError::InUse { directory: root.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings_of(rounds: u64) -> Map<String, Value> {
        json!({"seed": 1, "synthesize": {"rounds": rounds}}).as_object().unwrap().clone()
    }

    #[test]
    fn a_folder_is_gone_on_with_only_by_the_same_synthesis() {
        let world = tempfile::tempdir().unwrap();
        let root = world.path().join("out");
        let folder = SynthesisFolder::open(&root, &settings_of(1), false).unwrap();
        let second = SynthesisFolder::open(&root, &settings_of(1), false).unwrap_err();
        assert!(matches!(second, EngineError::InUse { .. }), "{second}");
        atomic::create_dir_all(&root.join("steps")).unwrap();
        drop(folder);
        drop(SynthesisFolder::open(&root, &settings_of(1), false).unwrap());
        let error = SynthesisFolder::open(&root, &settings_of(2), false).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("synthesize.rounds"), "{error}");
        atomic::write_bytes(&root.join(INSTRUCTIONS), b"{}\n").unwrap();
        atomic::write_bytes(&root.join(COUNTS), b"{}").unwrap();
        let error = SynthesisFolder::open(&root, &settings_of(1), false).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("is finished"), "{error}");
        drop(SynthesisFolder::open(&root, &settings_of(2), true).unwrap());
        assert!(!root.join("steps").exists() && !root.join(COUNTS).exists());
    }

    #[test]
    fn a_folder_of_others_is_left_alone() {
        let world = tempfile::tempdir().unwrap();
        atomic::write_bytes(&world.path().join("thesis.txt"), b"mine").unwrap();
        for force in [false, true] {
            let error = SynthesisFolder::open(world.path(), &settings_of(1), force).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains("holds thesis.txt"), "{error}");
        }
        assert!(!world.path().join(LOCK).exists());
    }

    /// Rows of a user's own bear the same names as ours.
    #[test]
    fn rows_without_the_settings_of_a_synthesis_are_another_s() {
        let world = tempfile::tempdir().unwrap();
        let root = world.path().join("data");
        for name in [PROMPTS, PAIRS, INSTRUCTIONS, LEFT_OUT, COUNTS] {
            atomic::create_dir_all(&root).unwrap();
            atomic::write_bytes(&root.join(name), b"mine").unwrap();
            for force in [false, true] {
                let error = SynthesisFolder::open(&root, &settings_of(1), force).unwrap_err();
                assert!(error.exit_status() == 2 && error.to_string().contains(name), "{error}");
            }
            assert_eq!(std::fs::read(root.join(name)).unwrap(), b"mine");
            assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
            std::fs::remove_dir_all(&root).unwrap();
        }
        // Nor is everything in a synthesis's own folders its own.
        drop(SynthesisFolder::open(&root, &settings_of(1), false).unwrap());
        atomic::create_dir_all(&root.join("steps")).unwrap();
        for name in ["own-00000.jsonl", ".own-00001.jsonl.tmp-7"] {
            atomic::write_bytes(&root.join("steps").join(name), b"{}").unwrap();
        }
        drop(SynthesisFolder::open(&root, &settings_of(1), false).unwrap());
        atomic::write_bytes(&root.join("steps/notes.txt"), b"mine").unwrap();
        let error = SynthesisFolder::open(&root, &settings_of(1), true).unwrap_err();
        assert!(error.to_string().contains("holds steps/notes.txt"), "{error}");
    }
}
