//! databricks-dolly: `instruction`, `context`, `response`. The context stands behind the instruction, on its next line.

use super::super::conversation::{answered, has_all};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::error::RowProblem;
use crate::layout::{optional_text, text};
use crate::{Instruction, Message};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "dolly",
    aliases: &[],
    fields: &["instruction", "context", "response"],
    fits: Some(|fields| has_all(fields, &["instruction", "context", "response"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let instruction = text(fields, "instruction")?;
    let prompt = match optional_text(fields, "context")? {
        Some(context) => format!("{instruction}\n{context}"),
        None => instruction.to_owned(),
    };
    let turns = vec![Message::user(prompt), Message::assistant(text(fields, "response")?)];
    Ok(of_messages(answered(turns, odd)))
}
