//! Prompts: what candidates respond to.

use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::raw_row::found;
use crate::row::{self, Columns};
use crate::{ColumnSpec, FieldProblem, Message, Row};

/// What a candidate responds to. One of `prompt`, `messages` and `prompt_ids` is there; ids win over text.
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
    /// The other fields of its row, where a reader was asked for them. In memory only: no file of prompts or candidates has
    /// them from here.
    #[serde(skip)]
    pub others: Option<Arc<Map<String, Value>>>,
}

impl Prompt {
    /// Names of the fields that prompts and candidates have of their own.
    pub const OWN_FIELDS: [&'static str; 5] = ["prompt_id", "prompt", "messages", "prompt_ids", "responses"];

    /// Keeps a row's fields that are no prompt's and no candidates'.
    pub fn keep_others(&mut self, mut row: Map<String, Value>) {
        row.retain(|name, _| !Self::OWN_FIELDS.contains(&name.as_str()));
        self.others = Some(Arc::new(row));
    }
}

impl Row for Prompt {
    const NOUN: &'static str = "prompts";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .always("prompt_id", row::text())
            .where_some("prompt", row::text(), |row| row.prompt.is_some())
            .messages("messages", |row| row.messages.as_deref())
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

pub(crate) fn id_of(value: &Value) -> Result<String, FieldProblem> {
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
    use crate::{atomic, read_prompts};

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
