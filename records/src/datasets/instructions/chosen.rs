//! The chosen conversation of a pair in any layout of pairs, the rejected one left aside: how hh-rlhf is fine-tuned on.

use super::super::conversation::answered;
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::super::pairs;
use super::of_messages;
use crate::Instruction;
use crate::error::RowProblem;

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "chosen",
    aliases: &["hh-rlhf"],
    fields: &pairs::TEXT_FIELDS,
    fits: None,
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    Ok(of_messages(answered(pairs::chosen_conversation(fields, odd)?, odd)))
}
