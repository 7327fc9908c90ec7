//! Belle's evaluation set: `question`, `std_answer`. Belle's training files are in the layouts alpaca and sharegpt.

use super::super::conversation::{answered, has_all};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::error::RowProblem;
use crate::layout::text;
use crate::{Instruction, Message};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "belle",
    aliases: &[],
    fields: &["question", "std_answer"],
    fits: Some(|fields| has_all(fields, &["question", "std_answer"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let turns =
        vec![Message::user(text(fields, "question")?), Message::assistant(text(fields, "std_answer")?)];
    Ok(of_messages(answered(turns, odd)))
}
