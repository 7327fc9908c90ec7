//! Prompts, and how they are read from files of any column names.

use std::path::Path;

use arrow_schema::Schema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::io::{Ids, each_row};
use crate::raw_row::found;
use crate::row::{self, Columns};
use crate::{FieldProblem, Message, RecordError, Row, layout};

/// What a candidate is asked for. One of `prompt`, `messages` and `prompt_ids` is there; ids win over text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique in its file; [`crate::read_prompts`] fills in the 0-based row number where a row has none.
    #[serde(default, deserialize_with = "id")]
    pub prompt_id: String,
    /// One user message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// A conversation that ends before the assistant's turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Token ids, taken as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
}

impl Row for Prompt {
    const NOUN: &'static str = "prompts";

    fn schema(rows: &[Self]) -> Schema {
        Columns::of(rows)
            .always("prompt_id", row::text())
            .where_some("prompt", row::text(), |row| row.prompt.is_some())
            .where_some("messages", row::messages(), |row| row.messages.is_some())
            .where_some("prompt_ids", row::ids(), |row| row.prompt_ids.is_some())
            .schema()
    }

    fn number(&mut self, row: usize) {
        if self.prompt_id.is_empty() {
            self.prompt_id = row.to_string();
        }
    }

    fn identity(&self) -> Option<&str> {
        Some(&self.prompt_id)
    }

    fn check(&self) -> Result<(), FieldProblem> {
        if self.prompt.is_none() && self.messages.is_none() && self.prompt_ids.is_none() {
            return Err(FieldProblem::new(
                "prompt",
                "\"prompt\", \"messages\" or \"prompt_ids\"",
                "none of them",
            ));
        }
        if self.prompt_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(FieldProblem::new("prompt_ids", "at least one token id", "an empty array"));
        }
        if self.messages.as_ref().is_some_and(Vec::is_empty) {
            return Err(FieldProblem::new("messages", "at least one message", "an empty array"));
        }
        Ok(())
    }
}

/// What to do with a row that is no prompt: `prompts.on_bad_prompt`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadPrompt {
    /// The first one is an error.
    #[default]
    Error,
    /// They are left out and counted.
    Skip,
}

/// The prompts of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPrompts {
    /// In the file's order.
    pub prompts: Vec<Prompt>,
    /// Rows that were left out.
    pub skipped: usize,
}

/// Reads the prompts of a file of any layout.
///
/// `column` holds a string or a message list; where a row has none, its `messages` are taken, and `prompt_ids` wherever
/// they stand. A row without `prompt_id` gets its number. An empty text and a conversation that ends with the
/// assistant's turn are no prompts.
///
/// # Errors
/// The file cannot be read, a row is no prompt and `on_bad` says error, two rows have one id, or no row is a prompt.
pub fn read_prompts(path: &Path, column: &str, on_bad: OnBadPrompt) -> Result<ReadPrompts, RecordError> {
    read_prompt_files(&[path], column, on_bad)
}

/// Reads the prompts of several files that are one split, as [`read_prompts`] reads those of one.
///
/// Rows are numbered through all files, and a `prompt_id` stands once in all of them.
///
/// # Errors
/// As [`read_prompts`]; where two files have one id, both are named.
pub fn read_prompt_files<P: AsRef<Path>>(
    paths: &[P],
    column: &str,
    on_bad: OnBadPrompt,
) -> Result<ReadPrompts, RecordError> {
    let mut read = ReadPrompts { prompts: Vec::new(), skipped: 0 };
    let mut first_reason = None;
    let mut ids = Ids::default();
    for path in paths.iter().map(AsRef::as_ref) {
        let before = read.prompts.len() + read.skipped;
        each_row(path, &mut |row, raw| match raw
            .into_map()
            .and_then(|map| prompt_of(&map, column).map_err(RowProblem::from))
        {
            Ok(mut prompt) => {
                let numbered = prompt.prompt_id.is_empty();
                prompt.number(before + row);
                ids.add(path, row, &prompt.prompt_id, numbered)?;
                read.prompts.push(prompt);
                Ok(())
            }
            Err(problem) if on_bad == OnBadPrompt::Skip => {
                read.skipped += 1;
                first_reason.get_or_insert_with(|| (path.to_path_buf(), format!("row {row}: {problem}")));
                Ok(())
            }
            Err(problem) => Err(problem.at(path, row)),
        })?;
    }
    if !read.prompts.is_empty() {
        return Ok(read);
    }
    Err(match first_reason {
        Some((path, reason)) => {
            RecordError::NoneUsable { path, skipped: read.skipped, noun: Prompt::NOUN, reason }
        }
        None => {
            let path = paths.first().map(|path| path.as_ref().to_path_buf()).unwrap_or_default();
            RecordError::Empty { path, noun: Prompt::NOUN }
        }
    })
}

fn prompt_of(map: &Map<String, Value>, column: &str) -> Result<Prompt, FieldProblem> {
    let present = |name: &str| map.get(name).filter(|value| !value.is_null());
    let mut prompt = Prompt {
        prompt_id: present("prompt_id").map(id_of).transpose()?.unwrap_or_default(),
        ..Prompt::default()
    };
    match (present(column), present("messages")) {
        // `prompt_ids` may be the column that is asked for.
        (Some(_), _) if column == "prompt_ids" => {}
        (Some(Value::String(text)), _) if text.trim().is_empty() => {
            return Err(FieldProblem::new(column, "a text", "an empty string"));
        }
        (Some(Value::String(text)), _) => prompt.prompt = Some(text.clone()),
        (Some(turns @ Value::Array(_)), _) => prompt.messages = Some(conversation(column, turns)?),
        (Some(other), _) => {
            return Err(FieldProblem::new(column, "a string or an array of messages", found(other)));
        }
        (None, Some(turns)) => prompt.messages = Some(conversation("messages", turns)?),
        (None, None) => {}
    }
    if let Some(ids) = present("prompt_ids") {
        prompt.prompt_ids = Some(layout::token_ids("prompt_ids", ids)?);
    }
    if prompt.prompt.is_none() && prompt.messages.is_none() && prompt.prompt_ids.is_none() {
        let names: Vec<&str> = map.keys().map(String::as_str).collect();
        let expected = if column == "prompt" {
            "a string, or \"messages\" or \"prompt_ids\" in its place".to_owned()
        } else {
            "a string or an array of messages".to_owned()
        };
        return Err(FieldProblem::new(column, expected, format!("only [{}]", names.join(", "))));
    }
    prompt.check()?;
    Ok(prompt)
}

fn conversation(field: &str, turns: &Value) -> Result<Vec<Message>, FieldProblem> {
    let turns = layout::messages(field, turns)?;
    match turns.last() {
        Some(last) if last.role == "assistant" => Err(FieldProblem::new(
            field,
            "a conversation that ends before the assistant's turn",
            "the assistant's turn at its end",
        )),
        Some(_) => Ok(turns),
        None => Err(FieldProblem::new(field, "at least one message", "an empty array")),
    }
}

fn id_of(value: &Value) -> Result<String, FieldProblem> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        other => Err(FieldProblem::new("prompt_id", "a string or an integer", found(other))),
    }
}

/// An id: integers are taken as their digits, as most data sets number their rows; null as none.
pub(crate) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    optional_id(deserializer).map(Option::unwrap_or_default)
}

/// An id that may be absent.
pub(crate) fn optional_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    value.as_ref().map(id_of).transpose().map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic;

    #[test]
    fn an_id_that_is_a_row_s_number_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.jsonl");
        let problem = |text: &str| {
            atomic::write_bytes(&path, text.as_bytes()).unwrap();
            read_prompts(&path, "prompt", OnBadPrompt::Error).unwrap_err().to_string()
        };
        let told = problem("{\"prompt\":\"x\"}\n{\"prompt_id\":0,\"prompt\":\"y\"}\n");
        assert!(told.contains("row 1") && told.contains("row 0 has no prompt_id"), "{told}");
        let told = problem("{\"prompt_id\":1,\"prompt\":\"x\"}\n{\"prompt\":\"y\"}\n");
        assert!(told.contains("row 1 has no prompt_id"), "{told}");
        let told = problem("{\"prompt_id\":0,\"prompt\":\"x\"}\n{\"prompt_id\":0,\"prompt\":\"y\"}\n");
        assert!(told.ends_with("found \"0\" again (row 0)"), "{told}");
    }
}
