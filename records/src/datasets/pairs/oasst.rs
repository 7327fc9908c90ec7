//! OpenAssistant: of every question with ranked replies the best is chosen over the worst.

use super::super::layout::{DataLayout, GroupProblem, GroupReading, RowFields, RowReading};
use super::super::oasst;
use super::super::oddity::Oddity;
use super::replies::TwoReplies;
use crate::Pair;

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "oasst",
    aliases: &["oasst1", "oasst2"],
    fields: &oasst::FIELDS,
    fits: Some(oasst::fits),
    reading: RowReading::Group(GroupReading { key: oasst::key, read }),
};

fn read(rows: &[RowFields], odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, GroupProblem> {
    let ranked = oasst::tree(rows)?.ranked()?;
    if ranked.is_empty() {
        odd.push(Oddity::NothingToCompare);
    }
    let mut pairs = Vec::new();
    for oasst::Ranked { prompt, chosen, rejected } in ranked {
        pairs.extend(TwoReplies { prompt, chosen, rejected }.pair(&RowFields::new(), odd)?);
    }
    Ok(pairs)
}
