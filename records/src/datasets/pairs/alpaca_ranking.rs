//! Alpaca with `output` = [better, worse]: LLaMA-Factory's earlier ranking files, comparison_gpt4_data and oasst_rm among them.

use serde_json::Value;

use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use super::replies::TwoReplies;
use crate::error::RowProblem;
use crate::layout::{alpaca_prompt, present};
use crate::raw_row::found;
use crate::{FieldProblem, Pair};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "alpaca-ranking",
    aliases: &["comparison-gpt4"],
    fields: fields!["instruction", "input", "history", "output", "system", "system_prompt"],
    fits: Some(|fields| {
        present(fields, "instruction").is_some() && present(fields, "output").is_some_and(Value::is_array)
    }),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let prompt = alpaca_prompt(fields)?;
    let wrong = |found: String| {
        FieldProblem::new("output", "an array of texts, the best first, the worst last", found)
    };
    let output = present(fields, "output").ok_or_else(|| wrong("no such field".to_owned()))?;
    let Value::Array(replies) = output else { return Err(wrong(found(output)).into()) };
    let text = |place: usize| match &replies[place] {
        Value::String(text) => Ok(text.clone()),
        other => Err(FieldProblem::new(format!("output[{place}]"), "a string", found(other))),
    };
    if replies.len() < 2 {
        odd.push(Oddity::NothingToCompare);
        return Ok(Vec::new());
    }
    TwoReplies { prompt, chosen: text(0)?, rejected: text(replies.len() - 1)? }.pair(fields, odd)
}
