//! Our own: `prompt_ids`, `chosen_ids`, `rejected_ids`, taken as they are. Texts may stand beside them.

use serde::Deserialize;
use serde_json::Value;

use super::super::conversation::has_all;
use super::super::layout::{DataLayout, IDS, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use crate::error::RowProblem;
use crate::raw_row::RawRow;
use crate::{Pair, Row};

const NAMES: [&str; 3] = ["prompt_ids", "chosen_ids", "rejected_ids"];

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: IDS,
    aliases: &[],
    fields: fields!["prompt_ids", "chosen_ids", "rejected_ids", "prompt", "chosen", "rejected"],
    fits: Some(|fields| has_all(fields, &NAMES)),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, _: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let pair: Pair = RawRow::Value(Value::Object(with_turns(fields.clone()))).into_row()?;
    pair.check()?;
    Ok(vec![pair])
}

/// The row with its texts as message lists: they only inform.
fn with_turns(mut fields: RowFields) -> RowFields {
    if let Some(Value::String(text)) = fields.get("prompt") {
        let turn = serde_json::json!([{ "role": "user", "content": text }]);
        fields.insert("prompt".to_owned(), turn);
    }
    for name in ["chosen", "rejected"] {
        if let Some(Value::String(text)) = fields.get(name) {
            let mut turns: Vec<Value> =
                Vec::deserialize(fields.get("prompt").unwrap_or(&Value::Null)).unwrap_or_default();
            turns.push(serde_json::json!({ "role": "assistant", "content": text }));
            fields.insert(name.to_owned(), Value::Array(turns));
        }
    }
    fields
}
