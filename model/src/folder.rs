//! A model's folder before anything in it is believed: which files are the model's, and links that leave the folder.
//!
//! Tokenizer files and configurations are copied into `policy/`, which people publish. A link among them that points
//! somewhere else on this machine would publish what lies there.

use std::path::{Path, PathBuf};

use crate::error::ModelError;
use crate::weights::{INDEX_FILE, SINGLE_FILE};

/// Files that go along with the weights unchanged, where the source folder has them.
pub(crate) const COMPANIONS: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// Whether a file of this name is one that saving a model writes.
pub fn is_model_file(name: &str) -> bool {
    let is_shard = || {
        let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors"));
        numbers.and_then(|numbers| numbers.split_once("-of-")).is_some_and(|(shard, count)| {
            [shard, count]
                .iter()
                .all(|digits| digits.len() == 5 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        })
    };
    ["config.json", SINGLE_FILE, INDEX_FILE].contains(&name) || COMPANIONS.contains(&name) || is_shard()
}

/// That no file which is copied with a model is a link out of `folder`. In a snapshot of the hub's cache, links into
/// the same repository's folder, where its blobs lie, are fine.
///
/// Errors: the first link that leaves the folder, by name.
pub(crate) fn check_links(folder: &Path) -> Result<(), ModelError> {
    ["config.json"].iter().chain(&COMPANIONS).try_for_each(|name| check_link(folder, name))
}

/// [`check_links`] of one file.
pub(crate) fn check_link(folder: &Path, name: &str) -> Result<(), ModelError> {
    match outward_link(folder, name) {
        None => Ok(()),
        Some(target) => Err(ModelError::input(
            folder.join(name),
            format!("it is a link that leaves the model's folder, to {}", target.display()),
            "put the file itself in its place if it belongs to the model: it is copied into policy/",
        )),
    }
}

/// Where a file of a folder leads if it is a link that leaves the folder. In a snapshot of the hub's cache, links into the same
/// repository's folder stay.
pub fn outward_link(folder: &Path, name: &str) -> Option<PathBuf> {
    let path = folder.join(name);
    if !path.is_symlink() {
        return None;
    }
    // A link to nothing is a file that is not there; a folder that cannot be resolved holds nothing that could be read.
    let (target, home) = (path.canonicalize().ok()?, folder.canonicalize().ok()?);
    let repository = hub_repository(&home);
    let stays =
        target.starts_with(&home) || repository.is_some_and(|repository| target.starts_with(repository));
    (!stays).then_some(target)
}

/// `models--ORG--NAME` of a snapshot `models--ORG--NAME/snapshots/COMMIT`.
fn hub_repository(snapshot: &Path) -> Option<PathBuf> {
    let snapshots =
        snapshot.parent().filter(|folder| folder.file_name().is_some_and(|name| name == "snapshots"))?;
    let repository = snapshots.parent()?;
    let name = repository.file_name()?.to_str()?;
    name.starts_with("models--").then(|| repository.to_path_buf())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use selfplay_records::{HasKind, Kind, atomic};

    use super::*;

    #[test]
    fn what_saving_writes_is_known() {
        for name in ["config.json", "model.safetensors", "model-00001-of-00012.safetensors", "merges.txt"] {
            assert!(is_model_file(name), "{name}");
        }
        for name in
            ["notes.txt", "model-1-of-2.safetensors", "pytorch_model.bin", "model-00001-of-.safetensors"]
        {
            assert!(!is_model_file(name), "{name}");
        }
    }

    #[test]
    fn links_that_leave_the_folder_are_refused_by_name() {
        let world = tempfile::tempdir().unwrap();
        let model = world.path().join("model");
        atomic::create_dir_all(&model.join("inner")).unwrap();
        atomic::write_bytes(&world.path().join("key"), b"private").unwrap();
        atomic::write_bytes(&model.join("inner/vocab"), b"{}").unwrap();
        symlink("inner/vocab", model.join("vocab.json")).unwrap();
        symlink("nowhere", model.join("tokenizer.model")).unwrap();
        check_links(&model).unwrap();
        // Through another link of the folder, and by way of a folder's link.
        symlink("../../key", model.join("inner/out")).unwrap();
        symlink("inner/out", model.join("merges.txt")).unwrap();
        let error = check_links(&model).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("merges.txt"), "{error}");
        std::fs::remove_file(model.join("merges.txt")).unwrap();
        symlink("..", model.join("up")).unwrap();
        symlink("up/key", model.join("config.json")).unwrap();
        assert!(check_links(&model).unwrap_err().to_string().contains("config.json"));
    }

    #[test]
    fn a_snapshot_s_blobs_are_its_own() {
        let world = tempfile::tempdir().unwrap();
        let (ours, theirs) = (world.path().join("models--a--b"), world.path().join("models--c--d"));
        let snapshot = ours.join("snapshots/0123");
        for folder in [&snapshot, &ours.join("blobs"), &theirs.join("blobs")] {
            atomic::create_dir_all(folder).unwrap();
        }
        for blob in [ours.join("blobs/x"), theirs.join("blobs/y")] {
            atomic::write_bytes(&blob, b"{}").unwrap();
        }
        symlink("../../blobs/x", snapshot.join("tokenizer.json")).unwrap();
        check_links(&snapshot).unwrap();
        symlink("../../../models--c--d/blobs/y", snapshot.join("config.json")).unwrap();
        assert!(check_links(&snapshot).is_err());
    }
}
