//! `policy_files.json`: what the files of an iteration's `policy/`, and of its `adapter/`, were when they were written.
//!
//! The next iteration starts from that policy, perhaps in another process on another day: one flipped bit of its weights
//! would train another policy unnoticed. Its card, README.md, is written when the iteration has been measured: it is no part of the model.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::EngineError;
use crate::json_file::{read_json, write_json};
use crate::run::dir::IterationDir;
use crate::run::input_files::InputFile;

/// Before the names of an adapter's files.
const ADAPTER: &str = "adapter/";

/// SHA-256 of each file, by name.
type Hashes = BTreeMap<String, String>;

fn hashes(dir: &IterationDir) -> Result<Hashes, EngineError> {
    let mut hashes = Hashes::new();
    for (folder, before) in [(dir.policy(), ""), (dir.adapter(), ADAPTER)] {
        if folder.is_dir() {
            hashes.extend(InputFile::of_model(&folder)?.into_iter().map(|file| {
                let name = file.path.file_name().unwrap_or_default().to_string_lossy();
                (format!("{before}{name}"), file.sha256)
            }));
        }
    }
    Ok(hashes)
}

/// Where a file of this name lies, and the folder that is to be removed for it to be made again.
fn place(dir: &IterationDir, name: &str) -> (PathBuf, PathBuf) {
    match name.strip_prefix(ADAPTER) {
        Some(name) => (dir.adapter().join(name), dir.adapter()),
        None => (dir.policy().join(name), dir.policy()),
    }
}

/// Writes down what `policy/` holds.
///
/// # Errors
/// When it cannot be read, or the file not be written.
pub fn keep(dir: &IterationDir) -> Result<(), EngineError> {
    write_json(&dir.policy_files(), &hashes(dir)?)
}

/// Removes the hashes of an earlier `policy/` that a user has removed.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn forget(dir: &IterationDir) -> Result<(), EngineError> {
    match std::fs::remove_file(dir.policy_files()) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io(&dir.policy_files(), "remove", source))
        }
        _ => Ok(()),
    }
}

/// That `policy/` holds what was written; nothing is known of a process that was killed in between, or of an earlier
/// selfplay's.
///
/// # Errors
/// [`EngineError::BadFile`] with the first file that is damaged or gone.
pub fn check(dir: &IterationDir) -> Result<(), EngineError> {
    if !dir.policy_files().is_file() {
        return Ok(());
    }
    let written: Hashes = read_json(&dir.policy_files()).map_err(|error| match error {
        // Made again with the policy alone.
        EngineError::BadFile { path, .. } => EngineError::BadFile {
            path,
            problem: format!(
                "is damaged: it holds the SHA-256 sums of the policy; remove it together with {} and resume, then the policy is \
                 trained again from the same pairs",
                dir.policy().display()
            ),
        },
        other => other,
    })?;
    let now = hashes(dir)?;
    match written.iter().find(|(name, sha256)| now.get(*name) != Some(*sha256)) {
        None => Ok(()),
        Some((name, _)) => {
            let (path, folder) = place(dir, name);
            let problem = format!(
                "is damaged: it is not what was written (sha256 in {}); remove {} and resume, then it is trained again \
                 from the same pairs",
                dir.policy_files().display(),
                folder.display()
            );
            Err(EngineError::BadFile { path, problem })
        }
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;
    use crate::run::dir::{RunDir, make_folder};

    #[test]
    fn a_flipped_bit_of_a_policy_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = RunDir::new(folder.path()).iteration(1);
        make_folder(&dir.policy()).unwrap();
        for name in ["config.json", "model.safetensors"] {
            atomic::write_bytes(&dir.policy().join(name), name.as_bytes()).unwrap();
        }
        check(&dir).unwrap();
        keep(&dir).unwrap();
        check(&dir).unwrap();
        atomic::write_bytes(&dir.policy().join("model.safetensors"), b"model.safetensorr").unwrap();
        let error = check(&dir).unwrap_err();
        assert!(
            error.exit_status() == 2 && error.to_string().contains("policy/model.safetensors: is damaged"),
            "{error}"
        );
        std::fs::remove_file(dir.policy().join("config.json")).unwrap();
        assert!(check(&dir).unwrap_err().to_string().contains("config.json"));
        forget(&dir).unwrap();
        forget(&dir).unwrap();
        check(&dir).unwrap();
    }
}
