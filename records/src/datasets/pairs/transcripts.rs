//! hh-rlhf: `chosen` and `rejected` are whole transcripts, `"\n\nHuman: … \n\nAssistant: …"`.

use super::super::conversation::has_any;
use super::super::layout::{DataLayout, RowFields, RowReading};
use super::super::oddity::Oddity;
use super::replies::part;
use super::{fields, rejected};
use crate::error::RowProblem;
use crate::layout::{self, present, text};
use crate::{FieldProblem, Message, Pair, transcript};

pub(super) static LAYOUT: DataLayout<Pair> = DataLayout {
    name: "transcripts",
    aliases: &["hh-rlhf"],
    fields: fields!["chosen", "rejected", "reject", "system", "system_prompt"],
    fits: Some(|fields| {
        let both = ["chosen", rejected(fields)];
        both.iter().all(|name| {
            present(fields, name)
                .and_then(|value| value.as_str())
                .is_some_and(|text| stands_alone(fields, text))
        })
    }),
    reading: RowReading::Row(read),
};

/// Whether a text is a whole conversation, and no reply to a prompt beside it: there it must have both speakers.
pub(super) fn stands_alone(fields: &RowFields, text: &str) -> bool {
    let has_prompt = has_any(fields, &["prompt", "question", "query", "instruction", "conversations"]);
    transcript::is_transcript(text) && (!has_prompt || transcript::prompt_turns(text).is_some())
}

fn read(fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
    let mut changed = Vec::new();
    let chosen = turns(fields, "chosen", &mut changed)?;
    let rejected = turns(fields, rejected(fields), &mut changed)?;
    let pairs = part(fields, &chosen, &rejected, odd)?;
    odd.extend(changed.into_iter().filter(|_| !pairs.is_empty()));
    Ok(pairs)
}

/// The turns of a transcript.
pub(super) fn turns(
    fields: &RowFields,
    name: &str,
    odd: &mut Vec<Oddity>,
) -> Result<Vec<Message>, FieldProblem> {
    let transcript = transcript::turns(text(fields, name)?)
        .ok_or_else(|| FieldProblem::new(name, "a transcript that begins with \"Human:\"", "another text"))?;
    if transcript.is_joined {
        odd.push(Oddity::JoinedTurns);
    }
    layout::with_system(fields, transcript.turns)
}
