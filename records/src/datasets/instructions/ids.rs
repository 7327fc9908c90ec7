//! Token ids: `prompt_ids`, `response_ids`, taken as they are. A conversation may stand beside them.

use super::super::conversation::has_any;
use super::super::layout::{DataLayout, IDS, RowFields, RowReading};
use super::super::oddity::Oddity;
use crate::error::RowProblem;
use crate::layout::{messages, present, token_ids, with_system};
use crate::{FieldProblem, Instruction, Row};

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: IDS,
    aliases: &[],
    fields: &["prompt_ids", "response_ids", "messages", "system", "system_prompt"],
    fits: Some(|fields| has_any(fields, &["prompt_ids", "response_ids"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, _: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let mut instruction = Instruction {
        prompt_ids: Some(ids(fields, "prompt_ids")?),
        response_ids: Some(ids(fields, "response_ids")?),
        ..Instruction::default()
    };
    if let Some(turns) = present(fields, "messages") {
        // The ids are what is learnt; the text informs, whatever is odd about it.
        instruction.messages = with_system(fields, messages("messages", turns)?)?;
    }
    instruction.check()?;
    Ok(vec![instruction])
}

fn ids(fields: &RowFields, name: &str) -> Result<Vec<u32>, FieldProblem> {
    let value = present(fields, name)
        .ok_or_else(|| FieldProblem::new(name, "an array of token ids", "no such field"))?;
    token_ids(name, value)
}
