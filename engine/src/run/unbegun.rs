//! Whether a folder is free for a run, or for a chain.

use std::path::Path;

use super::dir::RunDir;
use super::ranks_place::RanksPlace;
use crate::error::{EngineError, Result};

/// What may lie in a folder whose run was killed before it began.
const BEFORE_MANIFEST: [&str; 3] = ["run.lock", "recipe.toml", "events.jsonl"];

/// Whether a folder holds nothing but what a run writes before its manifest. The lock is the first: a `recipe.toml`
/// without it is the user's, and would be replaced.
///
/// # Errors
/// When the folder cannot be listed.
pub fn is_unbegun(directory: &Path) -> Result<bool> {
    let failed = |source| EngineError::io(directory, "list the folder", source);
    if !directory.is_dir() {
        return Ok(false);
    }
    let locked = RunDir::new(directory).lock_file().is_file();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        let temporary = name.starts_with('.') && name.contains(".tmp-");
        // Where the ranks of a launch meet, before anything else of the run is there.
        if RanksPlace::is_name(&name) && RanksPlace::of(directory).is_there() {
            continue;
        }
        if !locked || !(temporary || BEFORE_MANIFEST.contains(&name.as_ref())) {
            return Ok(false);
        }
    }
    Ok(true)
}
