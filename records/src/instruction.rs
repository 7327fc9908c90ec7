//! Instruction data for `selfplay sft`, in the layouts that it is published in.
//!
//! ```text
//! ids            prompt_ids, response_ids
//! messages       messages: [{role, content}], the last the assistant's
//! sharegpt       conversations: [{from, value}], the last gpt's; system
//! alpaca         instruction, input, output (response), system, history: [[user, assistant]]
//! texts          prompt (question, query), response (completion, answer, output, std_answer): text or messages
//! ```
//!
//! The first of these that a row has is taken, so that rows of several layouts may stand in one file. Ids win.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::layout::{SYSTEM, alpaca_prompt, message, messages, present, text, with_system};
use crate::raw_row::found;
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

const PROMPTS: [&str; 3] = ["prompt", "question", "query"];
const REPLIES: [&str; 5] = ["response", "completion", "answer", "output", "std_answer"];

impl TryFrom<Map<String, Value>> for Instruction {
    type Error = FieldProblem;

    fn try_from(row: Map<String, Value>) -> Result<Self, FieldProblem> {
        let mut instruction = Self::default();
        if present(&row, "prompt_ids").is_some() || present(&row, "response_ids").is_some() {
            instruction.prompt_ids = Some(ids(&row, "prompt_ids")?);
            instruction.response_ids = Some(ids(&row, "response_ids")?);
        }
        let first = |names: &[&'static str]| names.iter().copied().find(|name| present(&row, name).is_some());
        if let Some(turns) = present(&row, "messages") {
            let turns = with_system(&row, messages("messages", turns)?)?;
            instruction.messages = answered("messages", turns)?;
        } else if let Some(turns) = present(&row, "conversations") {
            let turns = with_system(&row, messages("conversations", turns)?)?;
            instruction.messages = answered("conversations", turns)?;
        } else if present(&row, "instruction").is_some() {
            let mut turns = alpaca_prompt(&row)?;
            let reply = first(&["output", "response", "completion"]).unwrap_or("output");
            turns.push(Message::assistant(text(&row, reply)?));
            instruction.messages = turns;
        } else if let Some(prompt) = first(&PROMPTS) {
            let mut turns = with_system(&row, side(prompt, present(&row, prompt), "user")?)?;
            let reply = first(&REPLIES).unwrap_or("response");
            turns.extend(side(reply, present(&row, reply), "assistant")?);
            instruction.messages = answered(reply, turns)?;
        } else if instruction.prompt_ids.is_none() {
            let names: Vec<&str> = row.keys().map(String::as_str).collect();
            return Err(FieldProblem::new(
                "messages",
                "\"messages\", \"conversations\", \"instruction\" and \"output\", \"prompt\" and \"response\", or \
                 \"prompt_ids\" and \"response_ids\"",
                format!("only [{}]", names.join(", ")),
            ));
        }
        Ok(instruction)
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
        let beside =
            ["messages", "conversations", "prompt_ids", "response_ids", "instruction", "input", "history"];
        let all = beside.into_iter().chain(PROMPTS).chain(REPLIES).chain(SYSTEM);
        Some(all.map(str::to_owned).collect())
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

/// One side of the exchange: a text, one message, or several.
fn side(field: &str, value: Option<&Value>, role: &str) -> Result<Vec<Message>, FieldProblem> {
    match value {
        Some(Value::String(text)) => Ok(vec![Message::new(role, text.as_str())]),
        Some(turns @ Value::Array(_)) => messages(field, turns),
        Some(turn @ Value::Object(_)) => Ok(vec![message(field, turn)?]),
        Some(other) => Err(FieldProblem::new(field, "a string or an array of messages", found(other))),
        None => Err(FieldProblem::new(field, "a string or an array of messages", "no such field")),
    }
}

fn answered(field: &str, turns: Vec<Message>) -> Result<Vec<Message>, FieldProblem> {
    let expected = "a conversation that ends with the assistant's turn";
    match turns.last() {
        Some(last) if last.role == "assistant" && turns.len() > 1 => Ok(turns),
        Some(last) if last.role == "assistant" => {
            Err(FieldProblem::new(field, expected, "nothing before that turn"))
        }
        Some(last) => {
            Err(FieldProblem::new(field, expected, format!("the turn of {:?} at its end", last.role)))
        }
        None => Err(FieldProblem::new(field, expected, "an empty array")),
    }
}

fn ids(row: &Map<String, Value>, name: &str) -> Result<Vec<u32>, FieldProblem> {
    let expected = "an array of token ids";
    let value = present(row, name).ok_or_else(|| FieldProblem::new(name, expected, "no such field"))?;
    Vec::deserialize(value).map_err(|_| FieldProblem::new(name, expected, found(value)))
}

#[cfg(test)]
mod tests;
