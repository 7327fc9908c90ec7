//! ShareGPT with two replies: `conversations` (or `messages`), and `chosen` and `rejected`, a message or a text.

use serde_json::Value;

use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::replies::replies;
use super::{fields, has_both};
use crate::error::RowProblem;
use crate::layout::{self, present};
use crate::{FieldProblem, Message, Pair};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "sharegpt",
    aliases: &[],
    fields: fields!["conversations", "messages", "chosen", "rejected", "reject", "system", "system_prompt",],
    fits: Some(|fields| {
        has_both(fields) && (present(fields, "conversations").is_some() || has_messages(fields))
    }),
    reading: RowReading::Row(read),
};

/// Whether the prompt stands as `messages` beside two replies, LLaMA-Factory's other spelling.
pub(super) fn has_messages(fields: &RowFields) -> bool {
    present(fields, "messages").is_some_and(Value::is_array)
        && !present(fields, "chosen").is_some_and(Value::is_array)
        && ["prompt", "question", "query", "instruction"].iter().all(|name| present(fields, name).is_none())
}

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    replies(fields, prompt(fields)?, odd)
}

/// The prompt's turns.
pub(super) fn prompt(fields: &RowFields) -> Result<Vec<Message>, FieldProblem> {
    let name = if present(fields, "conversations").is_none() && has_messages(fields) {
        "messages"
    } else {
        "conversations"
    };
    let turns = layout::messages(name, present(fields, name).unwrap_or(&Value::Null))?;
    layout::with_system(fields, turns)
}
