//! ShareGPT: `conversations` of `{from, value}`, and perhaps `system`.

use serde_json::Value;

use super::super::conversation::{answered, has_all, without_leading_replies};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::Instruction;
use crate::error::RowProblem;
use crate::layout::{messages, with_system};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "sharegpt",
    aliases: &[],
    fields: &["conversations", "system", "system_prompt"],
    fits: Some(|fields| has_all(fields, &["conversations"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let turns = messages("conversations", fields.get("conversations").unwrap_or(&Value::Null))?;
    let turns = without_leading_replies(with_system(fields, turns)?, odd);
    Ok(of_messages(answered(turns, odd)))
}
