//! UltraFeedback as it was collected: `instruction`, and `completions` of `{response, overall_score}`. The best one is chosen over the
//! worst.

use serde_json::Value;

use super::super::conversation::has_all;
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use super::replies::TwoReplies;
use crate::error::RowProblem;
use crate::layout::{text, with_system};
use crate::raw_row::found;
use crate::{FieldProblem, Message, Pair};

const SCORE: &str = "overall_score";

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "ultrafeedback",
    aliases: &[],
    fields: fields!["instruction", "completions", "system", "system_prompt"],
    fits: Some(|fields| {
        has_all(fields, &["instruction"])
            && fields
                .get("completions")
                .and_then(Value::as_array)
                .is_some_and(|list| list.first().is_none_or(|one| one.get("response").is_some()))
    }),
    reading: RowReading::Row(read),
};

struct Rated {
    score: f64,
    response: String,
}

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let prompt = with_system(fields, vec![Message::user(text(fields, "instruction")?)])?;
    let completions = fields.get("completions").unwrap_or(&Value::Null);
    let Value::Array(completions) = completions else {
        return Err(FieldProblem::new("completions", "an array of completions", found(completions)).into());
    };
    let mut rated = Vec::with_capacity(completions.len());
    for (place, completion) in completions.iter().enumerate() {
        rated.extend(rating(place, completion)?);
    }
    // Of equals the first is the best, and the last the worst.
    let best = rated.iter().reduce(|best, one| if one.score > best.score { one } else { best });
    let worst = rated.iter().reduce(|worst, one| if one.score <= worst.score { one } else { worst });
    match (best, worst) {
        (Some(best), Some(worst)) if best.score > worst.score => {
            TwoReplies { prompt, chosen: best.response.clone(), rejected: worst.response.clone() }
                .pair(fields, odd)
        }
        _ => {
            odd.push(if rated.len() < 2 { Oddity::NothingToCompare } else { Oddity::Tie });
            Ok(Vec::new())
        }
    }
}

/// A completion with its score; `None` where it was not rated.
fn rating(place: usize, completion: &Value) -> Result<Option<Rated>, FieldProblem> {
    let field = |name: &str| format!("completions[{place}].{name}");
    let wrong = |name: &str, expected: &str| {
        let found = completion.get(name).map_or_else(|| "no such field".to_owned(), found);
        FieldProblem::new(field(name), expected, found)
    };
    let response =
        completion.get("response").and_then(Value::as_str).ok_or_else(|| wrong("response", "a string"))?;
    if completion.get(SCORE).is_some_and(Value::is_null) {
        return Ok(None);
    }
    // Some releases have the number as text.
    let score = completion.get(SCORE).and_then(|score| match score {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_f64(),
    });
    let score = score.filter(|score: &f64| score.is_finite()).ok_or_else(|| wrong(SCORE, "a number"))?;
    Ok(Some(Rated { score, response: response.to_owned() }))
}
