//! JSON files that tests write and change.

use std::fs;
use std::path::Path;

use selfplay_records::atomic;
use serde_json::Value;

/// Writes a file; a JSON string is written as the text that it holds.
pub fn write_json(path: &Path, value: &Value) {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    atomic::write_bytes(path, text.as_bytes()).unwrap();
}

/// A file's value.
pub fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Changes a file.
pub fn edit_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = read_json(path);
    change(&mut value);
    write_json(path, &value);
}

/// A token of tokenizer.json's `added_tokens`: special, and never part of another one.
pub fn special_token(id: usize, content: &str) -> Value {
    serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                       "normalized": false, "special": true})
}
