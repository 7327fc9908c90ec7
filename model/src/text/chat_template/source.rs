//! Finding a model's chat template.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::companions::Companions;
use crate::error::ModelError;
use crate::json::read_json;

/// The longest published templates have some 20 KB.
const MOST_SOURCE: usize = 1 << 20;

/// A template's text and the file that it stood in.
pub(super) struct TemplateSource {
    pub(super) text: String,
    pub(super) path: PathBuf,
}

/// A template that the user named: JSON with a `chat_template` key, or the template itself.
pub(super) fn read_override(file: &Path) -> Result<TemplateSource, ModelError> {
    if let Some(text) = super::shipped::of(file) {
        return Ok(TemplateSource { text: text.to_owned(), path: file.to_path_buf() });
    }
    if file.extension().is_some_and(|ending| ending == "json") {
        if !file.exists() {
            return Err(ModelError::input(file, "there is no such file", "name a chat template that exists"));
        }
        let config = read_json(file, "name a chat template that exists")?;
        return in_json(&config, file)?.ok_or_else(|| {
            ModelError::input(file, "it has no `chat_template`", "the key holds the template as a string")
        });
    }
    read_text(file)
}

/// The template of a model.
pub(super) fn find(files: &Companions) -> Result<Option<TemplateSource>, ModelError> {
    if files.has("chat_template.jinja") {
        return read_text(&files.path("chat_template.jinja")).map(Some);
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        if let Some(found) = in_json(&files.json_if_there(name)?, &files.path(name))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read_text(file: &Path) -> Result<TemplateSource, ModelError> {
    let text = selfplay_records::read_regular_text(file, 4 * MOST_SOURCE as u64)
        .map_err(|error| ModelError::reading(file, error, "name a chat template that exists, in UTF-8"))?;
    bounded(text, file)
}

fn bounded(text: String, path: &Path) -> Result<TemplateSource, ModelError> {
    if text.len() > MOST_SOURCE {
        let what = format!("its chat template has {} bytes", text.len());
        return Err(ModelError::input(path, what, format!("a template has at most {MOST_SOURCE} bytes")));
    }
    if text.trim().is_empty() {
        return Err(ModelError::input(
            path,
            "its chat template is empty",
            "remove it, or put a template there",
        ));
    }
    Ok(TemplateSource { text, path: path.to_path_buf() })
}

/// `chat_template` of a JSON file: a string, a list of {name, template}, or an object of templates by name.
fn in_json(config: &Value, path: &Path) -> Result<Option<TemplateSource>, ModelError> {
    let named = |name: &str, template: &Value| {
        (name == "default").then(|| template.as_str()).flatten().map(str::to_owned)
    };
    let text = match &config["chat_template"] {
        Value::Null => return Ok(None),
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            list.iter().find_map(|entry| named(entry["name"].as_str().unwrap_or(""), &entry["template"]))
        }
        Value::Object(table) => table.iter().find_map(|(name, template)| named(name, template)),
        _ => None,
    };
    match text {
        Some(text) => bounded(text, path).map(Some),
        None => Err(ModelError::input(
            path,
            "`chat_template` is neither a string nor a list with a template named \"default\"",
            "give one template in policy.chat_template (tokenize: --chat-template)",
        )),
    }
}
