//! A row of instruction data: a conversation to imitate, or its token ids. The layouts that it comes in are in
//! [`crate::datasets`].

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::datasets::{DataExample, instruction_of};
use crate::row::{self, Columns};
use crate::{ColumnSpec, FieldProblem, Message, Row};

/// A conversation that ends with the reply to learn, or its token ids.
///
/// Either `messages` is not empty and ends with the assistant's turn, or both lists of ids are there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Instruction {
    /// The conversation; empty where only ids are known.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<Message>,
    /// The prompt's token ids, taken as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
    /// The response's token ids, taken as they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_ids: Option<Vec<u32>>,
}

impl TryFrom<Map<String, Value>> for Instruction {
    type Error = String;

    /// The row by the layout that its columns say; [`crate::datasets`] reads whole files, and by a layout that is named.
    fn try_from(row: Map<String, Value>) -> Result<Self, String> {
        instruction_of(&row)
    }
}

impl Row for Instruction {
    const NOUN: &'static str = "instructions";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .messages("messages", |row| Some(row.messages.as_slice()).filter(|messages| !messages.is_empty()))
            .where_some("prompt_ids", row::ids(), |row| row.prompt_ids.is_some())
            .where_some("response_ids", row::ids(), |row| row.response_ids.is_some())
            .schema()
    }

    fn columns() -> Option<Vec<String>> {
        let fields = Self::layouts().iter().flat_map(|layout| layout.fields());
        Some(fields.map(|name| (*name).to_owned()).collect())
    }

    fn check(&self) -> Result<(), FieldProblem> {
        let ids = self.prompt_ids.is_some() && self.response_ids.is_some();
        if self.messages.is_empty() && !ids {
            return Err(FieldProblem::new("messages", "a conversation, or ids", "neither"));
        }
        for (name, ids) in [("prompt_ids", &self.prompt_ids), ("response_ids", &self.response_ids)] {
            if ids.as_ref().is_some_and(Vec::is_empty) {
                return Err(FieldProblem::new(name, "at least one token id", "an empty array"));
            }
        }
        Ok(())
    }
}
