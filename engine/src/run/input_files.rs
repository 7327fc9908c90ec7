//! The files that a run or a stage command reads: what they were when the work began, and whether they still are.
//!
//! Every byte is hashed. Files are compared in order and both ways: what is new beside a model (a chat template, a
//! generation configuration) changes what it does as much as what is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::error::EngineError;

/// Of a larger file an earlier selfplay hashed the first and the last mebibyte only.
const ONCE_HASHED_WHOLE: u64 = 64 << 20;

/// What an input file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputKind {
    /// The policy's folder.
    Policy,
    /// The preference model's folder.
    PreferenceModel,
    /// Files of prompts.
    Prompts,
    /// Held-out prompts and their answers.
    Eval,
    /// Chat templates named in the recipe.
    Template,
}

/// A file as it was when the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Of its content.
    pub sha256: String,
    /// Whether every byte went into the hash; an earlier selfplay did not write this.
    #[serde(default)]
    pub whole: bool,
}

/// The files of a run, by what they are for.
pub type InputFiles = BTreeMap<InputKind, Vec<InputFile>>;

impl InputFile {
    /// Hashes a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self, EngineError> {
        Self::hashed(path, hash_rest)
    }

    /// As an earlier selfplay hashed a large file.
    fn of_ends(path: &Path) -> Result<Self, EngineError> {
        Self::hashed(path, hash_ends)
    }

    fn hashed(path: &Path, hash: fn(&mut File, &mut Sha256) -> io::Result<()>) -> Result<Self, EngineError> {
        let failed = |source| EngineError::io(path, "read", source);
        let mut file = selfplay_records::open_regular(path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut hasher = Sha256::new();
        hash(&mut file, &mut hasher).map_err(failed)?;
        let sha256 = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_path_buf(), bytes, sha256, whole: true })
    }

    /// Hashes a model folder's files, in the order of their names: configuration, tokenizer, template, weights. Or the one
    /// file that a model is.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn of_model(folder: &Path) -> Result<Vec<Self>, EngineError> {
        Self::of_all(&model_paths(folder)?)
    }

    /// Hashes files, several at a time: a large model comes in several.
    ///
    /// # Errors
    /// The first of them that cannot be read.
    pub fn of_all<P: AsRef<Path> + Sync>(paths: &[P]) -> Result<Vec<Self>, EngineError> {
        // One file a task: the largest ones take seconds.
        let hashed = paths.par_iter().with_max_len(1).map(|path| Self::of(path.as_ref()));
        hashed.collect::<Vec<_>>().into_iter().collect()
    }

    /// The hashes of a model's files by their names.
    ///
    /// # Errors
    /// As [`InputFile::of_model`].
    pub fn hashes_of_model(folder: &Path) -> Result<Map<String, Value>, EngineError> {
        let named = |file: Self| {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, file.sha256.into())
        };
        Ok(Self::of_model(folder)?.into_iter().map(named).collect())
    }

    /// By name and not by whole path: a run may be resumed from another working directory.
    fn has_name_of(&self, other: &Self) -> bool {
        self.path == other.path || self.path.file_name() == other.path.file_name()
    }

    /// Whether `now` is what this file was.
    fn is_same(&self, now: &Self) -> Result<bool, EngineError> {
        if self.bytes != now.bytes {
            return Ok(false);
        }
        if self.whole || self.bytes <= ONCE_HASHED_WHOLE {
            return Ok(self.sha256 == now.sha256);
        }
        Ok(self.sha256 == Self::of_ends(&now.path)?.sha256)
    }
}

/// That the files are what they were; kinds that are recorded on one side only are not compared.
///
/// With `more_or_fewer_splits`, for a run whose number of iterations changes, files of prompts may be added or left out at
/// the end.
///
/// # Errors
/// [`EngineError::InputChanged`] with the first file that is not the same.
pub fn check_unchanged(
    before: &InputFiles,
    now: &InputFiles,
    more_or_fewer_splits: bool,
) -> Result<(), EngineError> {
    for (kind, before) in before {
        let Some(now) = now.get(kind) else { continue };
        let changed =
            |file: &InputFile, change| Err(EngineError::InputChanged { path: file.path.clone(), change });
        let was_here = |file: &InputFile, files: &[InputFile]| files.iter().any(|one| one.has_name_of(file));
        // An earlier selfplay left these files out.
        let knew_all = before.iter().any(|file| file.whole);
        let now: Vec<&InputFile> = now.iter().filter(|file| knew_all || !is_vocabulary(&file.path)).collect();
        for (index, old) in before.iter().enumerate() {
            match now.get(index) {
                Some(new) if !new.has_name_of(old) => {
                    return if was_here(new, before) {
                        changed(old, "is no longer there, or in another place,")
                    } else {
                        changed(new, "is new")
                    };
                }
                Some(new) if !old.is_same(new)? => return changed(old, "has changed"),
                Some(_) => {}
                None if more_or_fewer_splits && *kind == InputKind::Prompts => break,
                None => return changed(old, "is no longer there"),
            }
        }
        match now.get(before.len()) {
            Some(new) if !(more_or_fewer_splits && *kind == InputKind::Prompts) => {
                return changed(new, "is new");
            }
            _ => {}
        }
    }
    Ok(())
}

/// The files of a model folder that decide what the model does, in the order of their names; or the one file that a model is.
///
/// # Errors
/// When the folder cannot be read.
pub fn model_paths(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |source| EngineError::io(folder, "list the folder", source);
    if folder.is_file() {
        return Ok(vec![folder.to_path_buf()]);
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if (is_model_ending(&path) || is_vocabulary(&path)) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn is_model_ending(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    matches!(ending, "json" | "jinja" | "model" | "safetensors")
}

/// `merges.txt` and `vocab.txt`, which are copied with a model.
fn is_vocabulary(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "merges.txt" || name == "vocab.txt")
}

fn hash_rest(file: &mut File, hasher: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&buffer[..read]);
    }
}

fn hash_ends(file: &mut File, hasher: &mut Sha256) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    file.read_exact(&mut buffer)?;
    hasher.update(&buffer);
    file.seek(SeekFrom::End(-(1 << 20)))?;
    file.read_exact(&mut buffer)?;
    hasher.update(&buffer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    fn of(kind: InputKind, files: Vec<InputFile>) -> InputFiles {
        BTreeMap::from([(kind, files)])
    }

    /// Hashes the files again and compares.
    fn compared(before: &InputFiles, kind: InputKind, paths: &[PathBuf], more_or_fewer: bool) -> String {
        let now = paths.iter().map(|path| InputFile::of(path).unwrap()).collect();
        match check_unchanged(before, &of(kind, now), more_or_fewer) {
            Ok(()) => "same".to_owned(),
            Err(error) => {
                assert_eq!(error.exit_status(), 2, "{error}");
                error.to_string()
            }
        }
    }

    #[test]
    fn swapped_files_new_files_and_files_that_are_gone_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for (name, text) in [("a", "one"), ("b", "two"), ("c", "three")] {
            atomic::write_bytes(&path(name), text.as_bytes()).unwrap();
        }
        let both = [path("a"), path("b")];
        let kind = InputKind::Prompts;
        let before = of(kind, both.iter().map(|path| InputFile::of(path).unwrap()).collect());
        // sha256("one"), from coreutils.
        assert_eq!(
            before[&kind][0].sha256,
            "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
        );
        assert_eq!(compared(&before, kind, &both, false), "same");
        let three = [path("a"), path("b"), path("c")];
        assert!(compared(&before, kind, &three, false).contains("/c: is new"));
        assert_eq!(compared(&before, kind, &three, true), "same");
        assert!(compared(&before, kind, &both[..1], false).contains("/b: is no longer there"));
        assert_eq!(compared(&before, kind, &both[..1], true), "same");
        assert!(compared(&before, kind, &[path("b"), path("a")], true).contains("/a: is no longer there"));
        assert!(compared(&before, kind, &[path("c"), path("a"), path("b")], true).contains("/c: is new"));
        atomic::write_bytes(&path("a"), b"two").unwrap();
        atomic::write_bytes(&path("b"), b"one").unwrap();
        assert!(compared(&before, kind, &both, true).contains("/a: has changed"));
    }

    #[test]
    fn a_template_beside_a_model_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| atomic::write_bytes(&folder.path().join(name), b"{}").unwrap();
        for name in ["config.json", "model.safetensors", "tokenizer.json", "notes.txt"] {
            write(name);
        }
        let kind = InputKind::Policy;
        let before = of(kind, InputFile::of_model(folder.path()).unwrap());
        assert_eq!(before[&kind].len(), 3);
        let mut earlier = before.clone();
        earlier.values_mut().flatten().for_each(|file| file.whole = false);
        let compared = |before: &InputFiles| {
            let now = of(kind, InputFile::of_model(folder.path()).unwrap());
            check_unchanged(before, &now, false).map_err(|error| error.to_string())
        };
        write("README.md");
        compared(&before).unwrap();
        write("merges.txt");
        assert!(compared(&before).unwrap_err().contains("merges.txt: is new"));
        compared(&earlier).unwrap();
        write("chat_template.jinja");
        assert!(compared(&before).unwrap_err().contains("chat_template.jinja: is new"));
        assert!(compared(&earlier).unwrap_err().contains("chat_template.jinja: is new"));
    }

    #[test]
    fn the_middle_of_a_large_file_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large.jsonl");
        let mut bytes = vec![b'x'; (65 << 20) as usize];
        atomic::write_bytes(&path, &bytes).unwrap();
        let kind = InputKind::Prompts;
        let before = of(kind, vec![InputFile::of(&path).unwrap()]);
        // What an earlier selfplay wrote down of it still holds.
        let mut earlier = of(kind, vec![InputFile::of_ends(&path).unwrap()]);
        earlier.values_mut().flatten().for_each(|file| file.whole = false);
        assert_ne!(before[&kind][0].sha256, earlier[&kind][0].sha256);
        let paths = [path.clone()];
        assert_eq!(compared(&before, kind, &paths, false), "same");
        assert_eq!(compared(&earlier, kind, &paths, false), "same");
        bytes[30 << 20] = b'y';
        atomic::write_bytes(&path, &bytes).unwrap();
        assert!(compared(&before, kind, &paths, false).contains("has changed"));
        bytes[0] = b'y';
        atomic::write_bytes(&path, &bytes).unwrap();
        assert!(compared(&earlier, kind, &paths, false).contains("has changed"));
    }
}
