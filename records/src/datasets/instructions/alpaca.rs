//! Alpaca: `instruction`, `input`, `output`, and perhaps `system` and `history` (`[[user, assistant], …]`).
//!
//! The input stands behind the instruction, on its next line, as LLaMA-Factory has it. `alpaca-input` keeps it apart, as a turn
//! of the role `input`: the shipped template `alpaca` gives it a section of its own, as Stanford's prompt does.

use super::super::conversation::{answered, has_all, has_any, one_of};
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::of_messages;
use crate::error::RowProblem;
use crate::layout::{alpaca_prompt, optional_text, text};
use crate::{Instruction, Message};

const REPLIES: [&str; 3] = ["output", "response", "completion"];

const FIELDS: [&str; 8] =
    ["instruction", "input", "output", "response", "completion", "system", "system_prompt", "history"];

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "alpaca",
    aliases: &[],
    fields: &FIELDS,
    // With a context it is dolly's.
    fits: Some(|fields| {
        has_all(fields, &["instruction"]) && has_any(fields, &REPLIES) && !has_all(fields, &["context"])
    }),
    reading: RowReading::Row(|fields, odd| read(fields, odd, alpaca_prompt(fields)?)),
};

pub(super) static WITH_INPUT_APART: DataLayout<Instruction> = DataLayout {
    name: "alpaca-input",
    aliases: &[],
    fields: &FIELDS,
    fits: None,
    reading: RowReading::Row(|fields, odd| {
        let input = optional_text(fields, "input")?.map(|input| Message::new("input", input));
        let mut alone = fields.clone();
        alone.remove("input");
        let mut turns = alpaca_prompt(&alone)?;
        turns.extend(input);
        read(fields, odd, turns)
    }),
};

fn read(
    fields: &RowFields,
    odd: &mut Vec<Oddity>,
    mut turns: Vec<Message>,
) -> Result<Vec<Instruction>, RowProblem> {
    turns.push(Message::assistant(text(fields, one_of(fields, &REPLIES)?)?));
    Ok(of_messages(answered(turns, odd)))
}
