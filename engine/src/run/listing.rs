//! What is in a folder, by name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::error::EngineError;

/// `00000.parquet`.
pub(crate) fn shard_name(shard: usize) -> String {
    format!("{shard:05}.parquet")
}

/// Numbers of the whole shards in a folder; none where the folder is absent.
///
/// # Errors
/// When the folder cannot be listed.
pub(crate) fn shards_in(folder: &Path) -> Result<BTreeSet<usize>, EngineError> {
    numbers_in(folder, ".parquet")
}

/// Numbers of the files in a folder that are called as shards are, with an ending; none where the folder is absent.
///
/// # Errors
/// When the folder cannot be listed.
pub(crate) fn numbers_in(folder: &Path, ending: &str) -> Result<BTreeSet<usize>, EngineError> {
    let number = |name: &String| match name.strip_suffix(ending) {
        Some(digits) if digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    };
    Ok(names_in(folder)?.iter().filter_map(number).collect())
}

/// Names in a folder; none where it is absent.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>, EngineError> {
    let failed = |source| EngineError::io(folder, "list the folder", source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
