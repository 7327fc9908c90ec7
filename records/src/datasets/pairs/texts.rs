//! Texts: `prompt` (`question`, `query`), a text or messages; `chosen` and `rejected`, a text or a message.

use serde_json::Value;

use super::super::conversation::{has_any, one_of};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::replies::replies;
use super::{fields, has_both};
use crate::error::RowProblem;
use crate::layout::{self, present, text};
use crate::{FieldProblem, Message, Pair, transcript};

const PROMPTS: [&str; 3] = ["prompt", "question", "query"];

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "texts",
    aliases: &["prompt-chosen-rejected"],
    fields: fields!["prompt", "question", "query", "chosen", "rejected", "reject", "system", "system_prompt",],
    fits: Some(|fields| {
        has_both(fields)
            && has_any(fields, &PROMPTS)
            && !present(fields, "chosen").is_some_and(Value::is_array)
            && present(fields, "conversations").is_none()
    }),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    replies(fields, prompt(fields)?, odd)
}

/// The prompt's turns.
pub(super) fn prompt(fields: &RowFields) -> Result<Vec<Message>, FieldProblem> {
    let name = one_of(fields, &PROMPTS)?;
    let turns = match fields.get(name) {
        Some(turns @ Value::Array(_)) => layout::messages(name, turns)?,
        _ => {
            let text = text(fields, name)?;
            // hh-rlhf with the prompt split off keeps its speakers, an empty last "Assistant:" among them.
            let mut turns = transcript::prompt_turns(text).unwrap_or_else(|| vec![Message::user(text)]);
            if turns.last().is_some_and(|last| last.role == "assistant" && last.content.is_empty()) {
                turns.pop();
            }
            turns
        }
    };
    layout::with_system(fields, turns)
}
