//! A prompt and a response, each a text, a message or several: `prompt` (`question`, `query`) and `response` (`completion`,
//! `answer`, `output`).

use super::super::conversation::{answered, has_any, one_of, side};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::Instruction;
use crate::error::RowProblem;
use crate::layout::with_system;

pub(super) const PROMPTS: [&str; 3] = ["prompt", "question", "query"];
const RESPONSES: [&str; 4] = ["response", "completion", "answer", "output"];

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "prompt-response",
    aliases: &["prompt-completion"],
    fields: &[
        "prompt",
        "question",
        "query",
        "response",
        "completion",
        "answer",
        "output",
        "system",
        "system_prompt",
    ],
    fits: Some(|fields| has_any(fields, &PROMPTS) && has_any(fields, &RESPONSES)),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, RowProblem> {
    let mut turns = with_system(fields, side(fields, one_of(fields, &PROMPTS)?, "user")?)?;
    turns.extend(side(fields, one_of(fields, &RESPONSES)?, "assistant")?);
    Ok(of_messages(answered(turns, odd)))
}
