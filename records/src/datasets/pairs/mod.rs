//! The layouts of pairs: a prompt with a chosen and a rejected reply.
//!
//! The layout is found in the first row and holds for the file. `reject` is read as `rejected`, and `system` (or
//! `system_prompt`) beside any layout of texts is the first turn of a conversation that has none.

mod alpaca;
mod alpaca_ranking;
mod beavertails;
mod cvalues;
mod ids;
mod messages;
mod oasst;
mod replies;
mod safe_rlhf;
mod sharegpt;
mod texts;
mod transcripts;
mod ultrafeedback;

use std::path::Path;

use serde_json::{Map, Value};

use super::layout::{DataExample, DataLayout, RowFields};
use super::oddity::{Oddities, Oddity};
use super::read::{DataFile, each_example};
use crate::error::RowProblem;
use crate::layout::{self, alpaca_prompt, present};
use crate::raw_row::found;
use crate::shown::quoted;
use crate::{FieldProblem, Message, Pair, RecordError, Row};

static ALL: [&DataLayout<Pair>; 12] = [
    &ids::LAYOUT,
    &messages::LAYOUT,
    &texts::LAYOUT,
    &alpaca::LAYOUT,
    &sharegpt::LAYOUT,
    &transcripts::LAYOUT,
    &alpaca_ranking::LAYOUT,
    &ultrafeedback::LAYOUT,
    &safe_rlhf::LAYOUT,
    &beavertails::LAYOUT,
    &cvalues::LAYOUT,
    &oasst::LAYOUT,
];

impl DataExample for Pair {
    const EXAMPLES: &'static str = Self::NOUN;
    const MIXED: bool = false;

    fn layouts() -> &'static [&'static DataLayout<Self>] {
        &ALL
    }

    fn unknown(path: &Path, row: usize, fields: &Map<String, Value>) -> RecordError {
        RecordError::Layout {
            path: path.to_path_buf(),
            row,
            noun: Self::NOUN,
            found: quoted(&layout::fields(fields)),
            expected: KNOWN,
        }
    }
}

const KNOWN: &str = "ids (prompt_ids, chosen_ids, rejected_ids), message lists (chosen, rejected, perhaps prompt), \
    texts (prompt, chosen, rejected), alpaca (instruction, input, chosen, rejected), sharegpt (conversations, chosen, \
    rejected), transcripts (chosen, rejected beginning with \"Human:\"), one of the published data sets' layouts, or a column \
    map";

/// Numbers, ids and log-probs that may stand beside every layout, and are read as they are.
macro_rules! fields {
    ($($name:literal),* $(,)?) => {
        &[
            $($name,)*
            "prompt_id", "chosen_probs", "chosen_probs_win", "chosen_probs_lose", "chosen_score", "chosen_score_win",
            "chosen_score_lose", "ref_chosen_logps", "ref_rejected_logps", "initial_chosen_logps", "initial_rejected_logps",
        ]
    };
}
use fields;

/// The columns of the layouts that have a chosen reply.
pub(super) const TEXT_FIELDS: [&str; 13] = [
    "prompt",
    "question",
    "query",
    "instruction",
    "input",
    "history",
    "conversations",
    "messages",
    "chosen",
    "rejected",
    "reject",
    "system",
    "system_prompt",
];

/// The pairs of a file, whose layout its columns say.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPairs {
    /// In the file's order; each has either all three lists of ids or `prompt`, `chosen` and `rejected`, or both.
    pub pairs: Vec<Pair>,
    /// The rows that were left out, and those that were changed.
    pub oddities: Oddities,
}

/// Reads all pairs of a file in any layout that is recognised by its columns.
///
/// # Errors
/// As [`each_example`].
pub fn read_pairs(path: &Path) -> Result<ReadPairs, RecordError> {
    let mut pairs = Vec::new();
    let report = each_example::<Pair, RecordError>(&DataFile::new(path), &mut |_, pair| {
        pairs.push(pair);
        Ok(())
    })?;
    Ok(ReadPairs { pairs, oddities: report.oddities })
}

/// The chosen conversation of a row in any layout that has one.
pub(super) fn chosen_conversation(
    fields: &RowFields,
    odd: &mut Vec<Oddity>,
) -> Result<Vec<Message>, RowProblem> {
    match present(fields, "chosen") {
        Some(Value::Array(_)) => Ok(messages::whole(fields, "chosen")?),
        Some(Value::String(text)) if transcripts::stands_alone(fields, text) => {
            Ok(transcripts::turns(fields, "chosen", odd)?)
        }
        Some(Value::String(_) | Value::Object(_)) => {
            let mut turns = if present(fields, "conversations").is_some() || sharegpt::has_messages(fields) {
                sharegpt::prompt(fields)?
            } else if present(fields, "instruction").is_some() {
                alpaca_prompt(fields)?
            } else {
                texts::prompt(fields)?
            };
            turns.push(Message::assistant(replies::reply(fields, "chosen")?));
            Ok(turns)
        }
        Some(other) => {
            Err(FieldProblem::new("chosen", "a string, a message or an array of messages", found(other))
                .into())
        }
        None => {
            Err(FieldProblem::new("chosen", "a string, a message or an array of messages", "no such field")
                .into())
        }
    }
}

/// `rejected`, or what stands as `reject` in its place.
pub(super) fn rejected(fields: &RowFields) -> &'static str {
    if present(fields, "rejected").is_none() && present(fields, "reject").is_some() {
        "reject"
    } else {
        "rejected"
    }
}

/// Whether there are a chosen and a rejected reply.
pub(super) fn has_both(fields: &RowFields) -> bool {
    present(fields, "chosen").is_some() && present(fields, rejected(fields)).is_some()
}

#[cfg(test)]
mod tests;
