//! OpenAssistant: trees of messages, a tree a row or a message a row. Every question of a tree gives the conversation up to the best
//! of its replies, unless another question follows that one.

use super::super::conversation::answered;
use super::super::layout::{DataLayout, GroupProblem, GroupReading, RowFields, RowReading};
use super::super::oasst;
use super::super::oddity::Oddity;
use super::of_messages;
use crate::Instruction;

pub(super) static LAYOUT: DataLayout<Instruction> = DataLayout {
    name: "oasst",
    aliases: &["oasst1", "oasst2"],
    fields: &oasst::FIELDS,
    fits: Some(oasst::fits),
    reading: RowReading::Group(GroupReading { key: oasst::key, read }),
};

fn read(rows: &[RowFields], odd: &mut Vec<Oddity>) -> Result<Vec<Instruction>, GroupProblem> {
    let conversations = oasst::tree(rows)?.conversations()?;
    if conversations.is_empty() {
        odd.push(Oddity::NoReply);
    }
    Ok(conversations.into_iter().flat_map(|turns| of_messages(answered(turns, odd))).collect())
}
