//! JSON files of our own folders: written whole or not at all, read with a message that says what to do.

use std::path::Path;

use selfplay_records::{atomic, read_regular};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// Writes a value as indented JSON, whole or not at all.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EngineError> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| EngineError::io(path, "write", std::io::Error::other(error)))?;
    text.push(b'\n');
    Ok(atomic::write_bytes(path, &text)?)
}

/// Reads a JSON file of the run folder.
///
/// # Errors
/// [`EngineError::BadFile`] when it does not read.
pub fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T, EngineError> {
    let bytes = read_regular(path, u64::MAX).map_err(|source| EngineError::io(path, "read", source))?;
    serde_json::from_slice(&bytes).map_err(|error| EngineError::BadFile {
        path: path.to_path_buf(),
        problem: format!(
            "is not what selfplay wrote ({error}); remove it: what made it makes it again, `resume` of a run, else the same command"
        ),
    })
}
