//! Message lists: `chosen` and `rejected` of `{role, content}`, whole conversations or the reply alone, and `prompt` (messages, a text
//! or absent). UltraFeedback's binarised form is one of them.

use serde_json::Value;

use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::replies::part;
use super::{fields, has_both, rejected};
use crate::error::RowProblem;
use crate::layout::{self, present};
use crate::raw_row::found;
use crate::{FieldProblem, Message, Pair};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "messages",
    aliases: &["ultrafeedback-binarized", "ultrafeedback-binarised"],
    fields: fields!["prompt", "chosen", "rejected", "reject", "system", "system_prompt"],
    fits: Some(|fields| {
        has_both(fields)
            && present(fields, "chosen").is_some_and(Value::is_array)
            && present(fields, "conversations").is_none()
    }),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    part(fields, &whole(fields, "chosen")?, &whole(fields, rejected(fields))?, odd)
}

/// A whole conversation: a list that begins with the assistant's turn is the reply alone.
pub(super) fn whole(fields: &RowFields, name: &str) -> Result<Vec<Message>, FieldProblem> {
    let prompt = match present(fields, "prompt") {
        Some(turns @ Value::Array(_)) => layout::messages("prompt", turns)?,
        // Beside whole conversations the text only repeats the prompt's last turn.
        Some(Value::String(text)) => vec![Message::user(text.as_str())],
        Some(other) => {
            return Err(FieldProblem::new("prompt", "an array of messages or a string", found(other)));
        }
        None => Vec::new(),
    };
    let turns = layout::messages(name, fields.get(name).unwrap_or(&Value::Null))?;
    let turns = match turns.first() {
        None => return Err(FieldProblem::new(name, "at least one message", "an empty array")),
        Some(first) if first.role == "assistant" => prompt.into_iter().chain(turns).collect(),
        Some(_) => turns,
    };
    layout::with_system(fields, turns)
}
