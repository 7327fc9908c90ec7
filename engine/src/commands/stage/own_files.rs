//! What a command of ours wrote in a folder: a command deletes nothing else.
//!
//! A folder is judged by the names in it, at every depth, before any work. A link is never ours: what it points to lies
//! elsewhere.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use selfplay_model::adapter::{CONFIG_FILE, WEIGHTS_FILE};
use selfplay_model::is_model_file;
use selfplay_records::{read_regular, read_regular_text};
use serde_json::Value;

use crate::card::{CARD, EVALUATIONS};
use crate::own_names::{finished_name, is_digits, is_transcript};
use crate::tracking::EVENT_FILE;

/// A card has some kilobytes.
const MOST_CARD_BYTES: u64 = 1 << 20;

/// Files that the trainer leaves beside a model.
pub(in crate::commands) const TRAINER_FILES: [&str; 5] =
    ["metrics.jsonl", "accuracy.jsonl", "gradients_step_1.safetensors", DATA_REPORT, EVENT_FILE];

/// What was found in the files of a training's data.
pub(in crate::commands) const DATA_REPORT: &str = "data.json";

/// The folder of a trained adapter, beside the model's.
pub(in crate::commands) const ADAPTER_FOLDER: &str = "adapter";

/// A kind of folder that a command writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnFolder {
    /// `OUTPUT.parts/` of any stage command.
    Parts,
    /// The output of a training, with its model in a folder of this name.
    Trained(&'static str),
    /// A model.
    Model,
}

impl OwnFolder {
    /// The first thing in `folder` that a command which writes this kind did not write; `None` where all of it is ours.
    pub(super) fn foreign(self, folder: &Path) -> io::Result<Option<PathBuf>> {
        self.foreign_below(folder, &[])
    }

    fn foreign_below(self, folder: &Path, above: &[&str]) -> io::Result<Option<PathBuf>> {
        let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let (kind, name) = (entry.file_type()?, entry.file_name());
            let Some(name) = name.to_str() else { return Ok(Some(entry.path())) };
            let names = [above, &[name]].concat();
            let ours = if kind.is_dir() {
                self.knows_folder(&names)
            } else {
                kind.is_file() && (self.knows_file(&names) || self.is_own_card(&names, &entry.path()))
            };
            if !ours {
                return Ok(Some(entry.path()));
            }
            // An unfinished folder holds what a finished one does.
            if kind.is_dir()
                && let Some(found) = self.foreign_below(&entry.path(), &names)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn knows_folder(self, names: &[&str]) -> bool {
        match (self, names.iter().map(|name| finished_name(name)).collect::<Vec<_>>().as_slice()) {
            (Self::Parts, ["reference"]) => true,
            (Self::Parts, [step]) => is_checkpoint(step),
            (Self::Trained(model), [name]) => *name == model || *name == ADAPTER_FOLDER,
            _ => false,
        }
    }

    /// Whether a file is a model's card as we write it: a README.md of the user's own is not.
    fn is_own_card(self, names: &[&str], path: &Path) -> bool {
        let is_place = match (self, names) {
            (Self::Trained(_), [_, name]) | (Self::Model, [name]) => finished_name(name) == CARD,
            _ => false,
        };
        is_place && read_regular_text(path, MOST_CARD_BYTES).is_ok_and(|text| text.contains(EVALUATIONS))
    }

    fn knows_file(self, names: &[&str]) -> bool {
        match (self, names.iter().map(|name| finished_name(name)).collect::<Vec<_>>().as_slice()) {
            (
                Self::Parts,
                [
                    "settings.json"
                    | "sampling.json"
                    | "transcript.jsonl"
                    | "servers.json"
                    | "probe.json"
                    | "lock"
                    | "best_weights.safetensors",
                ],
            ) => true,
            (Self::Parts | Self::Trained(_), [name]) if TRAINER_FILES.contains(name) => true,
            (Self::Parts, [name]) => is_shard(name) || is_transcript(name),
            (Self::Parts, ["reference", name]) => is_reference(name),
            (Self::Parts, [_, name]) => {
                matches!(*name, "state.json" | "weights.safetensors" | "optimizer.safetensors")
            }
            (Self::Trained(_), [ADAPTER_FOLDER, name]) => [CONFIG_FILE, WEIGHTS_FILE].contains(name),
            (Self::Trained(_), [_, name]) | (Self::Model, [name]) => is_model_file(name),
            _ => false,
        }
    }
}

/// Whether a folder that is nothing but ours by its names was left by a training: its log of steps says so.
pub(super) fn has_step_log(folder: &Path) -> bool {
    let Ok(text) = read_regular(&folder.join("metrics.jsonl"), u64::MAX) else { return false };
    let first = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    serde_json::from_slice::<Value>(first)
        .is_ok_and(|line| line["step"].is_u64() && line.get("loss").is_some())
}

/// Removes everything in `folder` that is ours, and the folder itself where nothing else is left in it. Returns
/// whether the folder is gone.
pub(super) fn remove_parts(folder: &Path, keep: Option<&str>) -> io::Result<bool> {
    let mut whole = true;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (kind, name) = (entry.file_type()?, entry.file_name());
        let name = name.to_str().unwrap_or_default();
        if keep == Some(name) {
            whole = false;
        } else if kind.is_dir() && OwnFolder::Parts.knows_folder(&[name]) {
            if OwnFolder::Parts.foreign_below(&entry.path(), &[name])?.is_some() {
                whole = false;
            } else {
                fs::remove_dir_all(entry.path())?;
            }
        } else if kind.is_file() && OwnFolder::Parts.knows_file(&[name]) {
            fs::remove_file(entry.path())?;
        } else {
            whole = false;
        }
    }
    if whole {
        fs::remove_dir(folder)?;
    }
    Ok(whole)
}

/// `step_000200`.
fn is_checkpoint(name: &str) -> bool {
    name.strip_prefix("step_").is_some_and(|digits| digits.len() >= 6 && is_digits(digits))
}

/// `00000.parquet`; `00000.jsonl` is an earlier selfplay's.
fn is_shard(name: &str) -> bool {
    let digits = name.strip_suffix(".parquet").or_else(|| name.strip_suffix(".jsonl"));
    digits.is_some_and(|digits| digits.len() >= 5 && is_digits(digits))
}

/// `00000-0123456789abcdef.jsonl`.
fn is_reference(name: &str) -> bool {
    let parts = name.strip_suffix(".jsonl").and_then(|name| name.split_once('-'));
    parts.is_some_and(|(number, hash)| {
        number.len() >= 5
            && is_digits(number)
            && hash.len() == 16
            && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    fn fill(folder: &Path, names: &[&str]) {
        for name in names {
            let path = folder.join(name);
            atomic::create_dir_all(path.parent().unwrap()).unwrap();
            atomic::write_bytes(&path, b"x").unwrap();
        }
    }

    const PARTS: [&str; 20] = [
        "settings.json",
        "data.json",
        "best_weights.safetensors",
        "sampling.json",
        "transcript.jsonl",
        "transcript_3.jsonl",
        "answers.jsonl",
        "answers_10.jsonl",
        "servers.json",
        "probe.json",
        "lock",
        "metrics.jsonl",
        "00000.parquet",
        "100000.parquet",
        ".00001.parquet.tmp-77",
        "reference/00000-0123456789abcdef.jsonl",
        "reference/.00001-0123456789abcdef.jsonl.tmp-7",
        "step_000200/state.json",
        ".step_000400.tmp-5/weights.safetensors",
        ".step_000400.tmp-5/.optimizer.safetensors.tmp-5",
    ];

    #[test]
    fn everything_that_commands_write_is_known() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), &PARTS);
        assert_eq!(OwnFolder::Parts.foreign(folder.path()).unwrap(), None);
        assert!(remove_parts(folder.path(), None).unwrap());
        assert!(!folder.path().exists());
        atomic::create_dir_all(folder.path()).unwrap();
        fill(
            folder.path(),
            &["metrics.jsonl", "policy/config.json", "policy/model-00001-of-00002.safetensors"],
        );
        assert_eq!(OwnFolder::Trained("policy").foreign(folder.path()).unwrap(), None);
        let other = OwnFolder::Trained("preference_model").foreign(folder.path()).unwrap();
        assert_eq!(other, Some(folder.path().join("policy")));
    }

    #[test]
    fn anything_else_is_foreign_and_stays() {
        for name in [
            "notes.txt",
            "step_1/a",
            "step_000200/notes",
            "reference/deep/er",
            "1.parquet",
            "policy/config.json",
        ] {
            let folder = tempfile::tempdir().unwrap();
            fill(folder.path(), &PARTS);
            fill(folder.path(), &[name]);
            let found = OwnFolder::Parts.foreign(folder.path()).unwrap();
            assert!(found.is_some_and(|found| folder.path().join(name).starts_with(found)), "{name}");
            assert!(!remove_parts(folder.path(), None).unwrap());
            assert!(folder.path().join(name).exists(), "{name}");
            assert!(!folder.path().join("00000.parquet").exists());
        }
        let folder = tempfile::tempdir().unwrap();
        let mine = tempfile::tempdir().unwrap();
        fill(mine.path(), &["state.json"]);
        std::os::unix::fs::symlink(mine.path(), folder.path().join("step_000200")).unwrap();
        assert!(OwnFolder::Parts.foreign(folder.path()).unwrap().is_some());
        assert!(!remove_parts(folder.path(), None).unwrap());
        assert!(mine.path().join("state.json").exists());
    }
}
