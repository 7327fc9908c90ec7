//! What the suites share about their rows.

use std::path::{Path, PathBuf};

use selfplay_records::RecordError;

use crate::error::{EngineError, Result};

/// The rows of several files, one after the other.
pub(super) fn rows_of<T>(
    files: &[PathBuf],
    mut read: impl FnMut(&Path) -> std::result::Result<Vec<T>, RecordError>,
) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for file in files {
        rows.extend(read(file)?);
    }
    Ok(rows)
}

/// The error of a row.
pub(super) fn bad_row(
    suite: &str,
    row: impl std::fmt::Display,
    problem: impl std::fmt::Display,
) -> EngineError {
    EngineError::input(format!("{suite}: row {row}: {problem}"))
}
