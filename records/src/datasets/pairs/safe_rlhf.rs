//! PKU-SafeRLHF: `prompt`, `response_0`, `response_1`, and `better_response_id` (0 or 1). The column map
//! `{better_response_id = "safer_response_id"}` takes the safer one.

use serde_json::Value;

use super::super::conversation::has_all;
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use super::replies::TwoReplies;
use crate::error::RowProblem;
use crate::layout::text;
use crate::raw_row::found;
use crate::{FieldProblem, Message, Pair};

const BETTER: &str = "better_response_id";

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "safe-rlhf",
    aliases: &["pku-saferlhf"],
    fields: fields!["prompt", "response_0", "response_1", "better_response_id"],
    fits: Some(|fields| has_all(fields, &["prompt", "response_0", "response_1"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let [first, second] = [text(fields, "response_0")?.to_owned(), text(fields, "response_1")?.to_owned()];
    let (chosen, rejected) = match fields.get(BETTER).and_then(Value::as_u64) {
        Some(0) => (first, second),
        Some(1) => (second, first),
        _ => {
            let found = fields.get(BETTER).map_or_else(|| "no such field".to_owned(), found);
            return Err(FieldProblem::new(BETTER, "0 or 1", found).into());
        }
    };
    let prompt = vec![Message::user(text(fields, "prompt")?)];
    TwoReplies { prompt, chosen, rejected }.pair(fields, odd)
}
