//! BeaverTails: `prompt`, `response`, `is_safe`. What is marked as unsafe is not imitated.

use serde_json::Value;

use super::super::conversation::{answered, has_all};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::error::RowProblem;
use crate::layout::text;
use crate::raw_row::found;
use crate::{FieldProblem, Instruction, Message};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "beavertails",
    aliases: &[],
    fields: &["prompt", "response", "is_safe"],
    fits: Some(|fields| has_all(fields, &["prompt", "response", "is_safe"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let turns = vec![Message::user(text(fields, "prompt")?), Message::assistant(text(fields, "response")?)];
    match fields.get("is_safe") {
        Some(Value::Bool(true)) => Ok(of_messages(answered(turns, odd))),
        Some(Value::Bool(false)) => {
            odd.push(Oddity::UnsafeReply);
            Ok(Vec::new())
        }
        other => {
            let found = other.map_or_else(|| "no such field".to_owned(), found);
            Err(FieldProblem::new("is_safe", "true or false", found).into())
        }
    }
}
