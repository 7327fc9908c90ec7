//! CValues: `prompt`, `pos_resp`, `neg_resp`.

use super::super::conversation::has_all;
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::fields;
use super::replies::TwoReplies;
use crate::error::RowProblem;
use crate::layout::{text, with_system};
use crate::{Message, Pair};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "cvalues",
    aliases: &[],
    fields: fields!["prompt", "pos_resp", "neg_resp", "system", "system_prompt"],
    fits: Some(|fields| has_all(fields, &["prompt", "pos_resp", "neg_resp"])),
    reading: RowReading::Row(read),
};

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let prompt = with_system(fields, vec![Message::user(text(fields, "prompt")?)])?;
    let (chosen, rejected) = (text(fields, "pos_resp")?.to_owned(), text(fields, "neg_resp")?.to_owned());
    TwoReplies { prompt, chosen, rejected }.pair(fields, odd)
}
