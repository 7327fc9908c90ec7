//! Finding a model's chat template and readying its text for minijinja.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::architecture::read_json;
use crate::error::ModelError;

/// The longest published templates have some 20 KB.
const MOST_SOURCE: usize = 1 << 20;

/// A template's text and the file that it stood in.
pub(super) struct Found {
    pub(super) text: String,
    pub(super) path: PathBuf,
}

/// A template that the user named: JSON with a `chat_template` key, or the template itself.
pub(super) fn read_override(file: &Path) -> Result<Found, ModelError> {
    if file.extension().is_some_and(|ending| ending == "json") {
        if !file.exists() {
            return Err(ModelError::input(file, "there is no such file", "name a chat template that exists"));
        }
        return in_json(file)?.ok_or_else(|| {
            ModelError::input(file, "it has no `chat_template`", "the key holds the template as a string")
        });
    }
    read_text(file)
}

/// The template of a model folder.
pub(super) fn find(folder: &Path) -> Result<Option<Found>, ModelError> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        return read_text(&file).map(Some);
    }
    for name in ["tokenizer_config.json", "chat_template.json"] {
        let file = folder.join(name);
        if file.is_file()
            && let Some(found) = in_json(&file)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn read_text(file: &Path) -> Result<Found, ModelError> {
    let text = selfplay_records::read_regular_text(file, 4 * MOST_SOURCE as u64)
        .map_err(|error| ModelError::reading(file, error, "name a chat template that exists, in UTF-8"))?;
    bounded(text, file)
}

fn bounded(text: String, path: &Path) -> Result<Found, ModelError> {
    if text.len() > MOST_SOURCE {
        let what = format!("its chat template has {} bytes", text.len());
        return Err(ModelError::input(path, what, format!("a template has at most {MOST_SOURCE} bytes")));
    }
    Ok(Found { text, path: path.to_path_buf() })
}

/// `chat_template` of a JSON file: a string, a list of {name, template}, or an object of templates by name.
fn in_json(path: &Path) -> Result<Option<Found>, ModelError> {
    let config = read_json(path, "name a chat template that exists")?;
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
            "give one template with --chat-template",
        )),
    }
}

/// The template's text as minijinja takes it:
///
/// - line ends as Jinja reads them;
/// - `{% generation %}` tags, which mark the assistant's tokens for masks that are not made here, as conditions that
///   always hold, so that their whitespace control stays what it was;
/// - the value of every `{% set … = … %}` passed through [`super::python::WITHIN_BOUNDS`]: a variable that doubles
///   at each turn of a loop would fill the memory in few steps.
pub(super) fn prepare(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(text.len() + 256);
    let mut rest = text.as_str();
    let mut is_raw = false;
    while let Some(start) = rest.find('{') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let length = match rest.as_bytes().get(1) {
            Some(b'%') => tag_length(rest, "%}"),
            Some(b'{') if !is_raw => tag_length(rest, "}}"),
            Some(b'#') if !is_raw => rest.find("#}").map_or(rest.len(), |end| end + 2),
            _ => 1,
        };
        let (tag, after) = rest.split_at(length);
        rest = after;
        match tag.strip_prefix("{%").and_then(|tag| tag.strip_suffix("%}")) {
            Some(inner) => {
                let bare = inner.trim_matches(['-', '+']).trim();
                is_raw = bare == "raw" || (is_raw && bare != "endraw");
                let inner = if is_raw { inner.to_owned() } else { statement(inner, bare) };
                out.push_str("{%");
                out.push_str(&inner);
                out.push_str("%}");
            }
            None => out.push_str(tag),
        }
    }
    out.push_str(rest);
    out
}

/// What stands between `{%` and `%}`, changed where it must be; `bare` is it without signs and spaces around.
fn statement(inner: &str, bare: &str) -> String {
    match bare {
        "generation" => return inner.replace("generation", "if true"),
        "endgeneration" => return inner.replace("endgeneration", "endif"),
        _ => {}
    }
    let is_set = bare.strip_prefix("set").is_some_and(|rest| rest.starts_with(char::is_whitespace));
    // A target (`a`, `ns.a`, `a, b`) holds no `=`; a set without one collects the block that follows.
    let Some(equals) = inner.find('=').filter(|_| is_set) else { return inner.to_owned() };
    let (target, value) = inner.split_at(equals + 1);
    let end = value.trim_end_matches(['-', '+']).len();
    // A sign that is the expression's own (`1 -`) is a syntax error either way.
    let (value, sign) = value.split_at(end);
    if value.trim().is_empty() {
        return inner.to_owned();
    }
    format!("{target} ({value}) | {} {sign}", super::python::WITHIN_BOUNDS)
}

/// The length of a tag that `text` starts with, up to and with `close`, which does not count inside strings. All of
/// the text where the tag is not closed.
fn tag_length(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut at = 2;
    while at < bytes.len() {
        match (quote, bytes[at]) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if byte == open => quote = None,
            (None, byte @ (b'"' | b'\'')) => quote = Some(byte),
            (None, _) if bytes[at..].starts_with(close.as_bytes()) => return at + close.len(),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::prepare;

    #[test]
    fn generation_tags_become_conditions_and_keep_their_whitespace_control() {
        assert_eq!(prepare("a{% generation %}b{% endgeneration %}c"), "a{% if true %}b{% endif %}c");
        assert_eq!(prepare("{%- generation -%}b{%-endgeneration+%}"), "{%- if true -%}b{%-endif+%}");
        assert_eq!(prepare("{% if generation %}"), "{% if generation %}");
        assert_eq!(prepare("{% generation"), "{% generation");
        assert_eq!(
            prepare("{{ '{% generation %}' }}{# {% generation %} #}"),
            "{{ '{% generation %}' }}{# {% generation %} #}"
        );
    }

    #[test]
    fn set_values_are_bounded_and_nothing_else_is() {
        assert_eq!(prepare("{%- set a, b = 1, '%}' -%}x"), "{%- set a, b = ( 1, '%}' ) | within_bounds -%}x");
        for same in
            ["{% set a %}", "{% settle = 1 %}", "{% raw %}{% set a = 1 %}{% endraw %}", "{ {% if a == 1 %}"]
        {
            assert_eq!(prepare(same), same);
        }
    }

    #[test]
    fn line_ends_are_line_feeds() {
        assert_eq!(prepare("a\r\nb\rc\n"), "a\nb\nc\n");
    }
}
