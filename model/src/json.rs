//! JSON files of a model's folder.

use std::path::Path;

use serde_json::Value;

use crate::error::ModelError;

/// Published configurations and tables of weights have some megabytes, tokenizers some ten.
const MOST_JSON: u64 = 256 << 20;

/// Reads a JSON file of a model folder; `remedy` ends the message where it is absent.
pub(crate) fn read_json(path: &Path, remedy: &str) -> Result<Value, ModelError> {
    if let Some(folder) = path.parent()
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        return Err(ModelError::input(folder, "there is no such folder", "name a model folder that exists"));
    }
    let text = selfplay_records::read_regular_text(path, MOST_JSON)
        .map_err(|error| ModelError::reading(path, error, remedy))?;
    serde_json::from_str(&text).map_err(|error| {
        ModelError::input(path, format!("it is not valid JSON: {error}"), "fetch the file again")
    })
}
