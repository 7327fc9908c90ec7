//! BeaverTails: `prompt`, `response`, `is_safe`, a reply a row. Of neighbours with one prompt, the first safe reply is chosen over the first
//! unsafe one, the second over the second, and so on.

use serde_json::Value;

use super::super::conversation::has_all;
use super::super::layout::{DataLayout, GroupProblem, GroupReading, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use super::replies::TwoReplies;
use crate::layout::text;
use crate::raw_row::found;
use crate::{FieldProblem, Message, Pair};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "beavertails",
    aliases: &[],
    fields: fields!["prompt", "response", "is_safe"],
    fits: Some(|fields| has_all(fields, &["prompt", "response", "is_safe"])),
    reading: RowReading::Group(GroupReading {
        key: |fields| fields.get("prompt").and_then(Value::as_str).map(str::to_owned),
        read,
    }),
};

fn read(rows: &[RowFields], odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, GroupProblem> {
    let (mut safe, mut unsafe_ones) = (Vec::new(), Vec::new());
    for (place, row) in rows.iter().enumerate() {
        let at = |problem: FieldProblem| GroupProblem { place, problem: problem.into() };
        text(row, "prompt").map_err(at)?;
        let reply = text(row, "response").map_err(at)?;
        match row.get("is_safe") {
            Some(Value::Bool(true)) => safe.push(reply),
            Some(Value::Bool(false)) => unsafe_ones.push(reply),
            other => {
                let found = other.map_or_else(|| "no such field".to_owned(), found);
                return Err(at(FieldProblem::new("is_safe", "true or false", found)));
            }
        }
    }
    if safe.is_empty() || unsafe_ones.is_empty() {
        odd.push(Oddity::NothingToCompare);
    }
    let mut pairs = Vec::new();
    for (chosen, rejected) in safe.iter().zip(&unsafe_ones) {
        let prompt = vec![Message::user(text(&rows[0], "prompt").unwrap_or_default())];
        let two = TwoReplies { prompt, chosen: (*chosen).to_owned(), rejected: (*rejected).to_owned() };
        pairs.extend(two.pair(&RowFields::new(), odd)?);
    }
    Ok(pairs)
}
