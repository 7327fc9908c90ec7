//! Alpaca with two replies: `instruction`, `input`, `system`, `history`; `chosen` and `rejected`, a text or a message.

use serde_json::Value;

use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::replies::replies;
use super::{fields, has_both};
use crate::Pair;
use crate::error::RowProblem;
use crate::layout::{alpaca_prompt, present};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "alpaca",
    aliases: &[],
    fields: fields![
        "instruction",
        "input",
        "history",
        "chosen",
        "rejected",
        "reject",
        "system",
        "system_prompt",
    ],
    fits: Some(|fields| {
        has_both(fields)
            && present(fields, "instruction").is_some()
            && !present(fields, "chosen").is_some_and(Value::is_array)
            && present(fields, "conversations").is_none()
    }),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    replies(fields, alpaca_prompt(fields)?, odd)
}
