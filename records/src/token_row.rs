//! Rows of `selfplay tokenize`: a text or a conversation in, its token ids out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::row::{self, Columns};
use crate::{ColumnSpec, ColumnType, FieldProblem, Message, Row};

/// A text or a conversation, and its token ids once they are known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TokenRow {
    /// A text; this or `messages`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Whether the text's ids get the tokenizer's special tokens; absent: yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_special_tokens: Option<bool>,
    /// A conversation; this or `text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// Whether the rendering ends with the assistant's header; absent: no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_generation_prompt: Option<bool>,
    /// Out: the token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<u32>>,
    /// Out, of `messages` only: the text that the chat template made, whose ids get no further special tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
    /// The row's other fields, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl TokenRow {
    /// `add_special_tokens`, true where absent.
    pub fn adds_special_tokens(&self) -> bool {
        self.add_special_tokens.unwrap_or(true)
    }

    /// `add_generation_prompt`, false where absent.
    pub fn adds_generation_prompt(&self) -> bool {
        self.add_generation_prompt.unwrap_or(false)
    }
}

impl Row for TokenRow {
    const NOUN: &'static str = "texts";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .where_some("text", row::text(), |row| row.text.is_some())
            .where_some("add_special_tokens", ColumnType::Bool, |row| row.add_special_tokens.is_some())
            .messages("messages", |row| row.messages.as_deref())
            .where_some("add_generation_prompt", ColumnType::Bool, |row| row.add_generation_prompt.is_some())
            .where_some("ids", row::ids(), |row| row.ids.is_some())
            .where_some("rendered", row::text(), |row| row.rendered.is_some())
            .extra(|row| &row.extra)
            .schema()
    }

    row::keeps_other_fields!();

    fn check(&self) -> Result<(), FieldProblem> {
        match (&self.text, &self.messages) {
            (None, None) => Err(FieldProblem::new("text", "\"text\" or \"messages\"", "neither")),
            (Some(_), Some(_)) => {
                Err(FieldProblem::new("messages", "either \"text\" or \"messages\"", "both"))
            }
            _ => Ok(()),
        }
    }
}
