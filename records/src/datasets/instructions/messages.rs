//! Messages: `messages` of `{role, content}`, and perhaps `system`.

use serde_json::Value;

use super::super::conversation::{answered, has_all};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::Instruction;
use crate::error::RowProblem;
use crate::layout::{messages, with_system};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "messages",
    aliases: &["chatml", "openai"],
    fields: &["messages", "system", "system_prompt"],
    fits: Some(|fields| has_all(fields, &["messages"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let turns = messages("messages", fields.get("messages").unwrap_or(&Value::Null))?;
    Ok(of_messages(answered(with_system(fields, turns)?, odd)))
}
