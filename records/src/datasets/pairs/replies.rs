//! A prompt and two replies as a pair, or what is odd about them.

use serde_json::Value;

use super::super::layout::RowFields;
use super::super::oddity::Oddity;
use super::rejected;
use crate::error::RowProblem;
use crate::layout::{message, present};
use crate::raw_row::{RawRow, found};
use crate::{FieldProblem, Message, Pair, Row};

/// A prompt with the text of its chosen and its rejected reply.
pub(super) struct TwoReplies {
    pub(super) prompt: Vec<Message>,
    pub(super) chosen: String,
    pub(super) rejected: String,
}

/// The texts of `chosen` and `rejected` to one prompt.
pub(super) fn replies(
    fields: &RowFields,
    prompt: Vec<Message>,
    odd: &mut Vec<Oddity>,
) -> Result<Vec<Pair>, RowProblem> {
    let chosen = reply(fields, "chosen")?;
    let rejected = reply(fields, rejected(fields))?;
    TwoReplies { prompt, chosen, rejected }.pair(fields, odd)
}

/// A reply that is a text or one message.
pub(super) fn reply(fields: &RowFields, name: &str) -> Result<String, FieldProblem> {
    match present(fields, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(turn @ Value::Object(_)) => message(name, turn).map(|turn| turn.content),
        Some(other) => Err(FieldProblem::new(name, "a string or a message", found(other))),
        None => Err(FieldProblem::new(name, "a string or a message", "no such field")),
    }
}

/// Parts two conversations into their common prompt and the replies: the prompt is their longest common beginning if that ends
/// before an assistant's turn, and each reply is the turn after it. Later turns answer different conversations.
pub(super) fn part(
    fields: &RowFields,
    chosen: &[Message],
    rejected: &[Message],
    odd: &mut Vec<Oddity>,
) -> Result<Vec<Pair>, RowProblem> {
    if chosen == rejected {
        odd.push(Oddity::IdenticalReplies);
        return Ok(Vec::new());
    }
    let common = chosen.iter().zip(rejected).take_while(|(a, b)| a == b).count();
    // Where one conversation ends at the parting, its reply is missing.
    if common > 0 && (common == chosen.len() || common == rejected.len()) {
        odd.push(Oddity::EmptyReply);
        return Ok(Vec::new());
    }
    match (chosen.get(common), rejected.get(common)) {
        (Some(a), Some(b)) if common > 0 && a.role == "assistant" && b.role == "assistant" => {
            let mut later = Vec::new();
            if chosen.len().max(rejected.len()) > common + 1 {
                later.push(Oddity::LaterTurns);
            }
            let two = TwoReplies {
                prompt: chosen[..common].to_vec(),
                chosen: a.content.clone(),
                rejected: b.content.clone(),
            };
            let pairs = two.pair(fields, odd)?;
            // Of a row that is left out its reason is told alone.
            odd.extend(later.into_iter().filter(|_| !pairs.is_empty()));
            Ok(pairs)
        }
        _ => {
            odd.push(Oddity::DifferentPrompts);
            Ok(Vec::new())
        }
    }
}

impl TwoReplies {
    /// The pair with what stands beside the texts in `fields`: scores, reference log-probs, an id.
    pub(super) fn pair(self, fields: &RowFields, odd: &mut Vec<Oddity>) -> Result<Vec<Pair>, RowProblem> {
        let Self { prompt, chosen, rejected } = self;
        let oddity = if prompt.last().is_none_or(|last| last.role == "assistant") {
            Some(Oddity::DifferentPrompts)
        } else if chosen.trim().is_empty() || rejected.trim().is_empty() {
            Some(Oddity::EmptyReply)
        } else if chosen == rejected {
            Some(Oddity::IdenticalReplies)
        } else {
            None
        };
        if let Some(oddity) = oddity {
            odd.push(oddity);
            return Ok(Vec::new());
        }
        let answered = |reply: String| {
            let turns = prompt.iter().cloned().chain([Message::assistant(reply)]);
            Some(turns.collect::<Vec<_>>())
        };
        let (chosen, rejected) = (answered(chosen), answered(rejected));
        let mut rest = fields.clone();
        for texts in ["prompt", "chosen", "rejected"] {
            rest.remove(texts);
        }
        let rest: Pair = RawRow::Value(Value::Object(rest)).into_row()?;
        let pair = Pair { prompt: Some(prompt), chosen, rejected, ..rest };
        pair.check()?;
        Ok(vec![pair])
    }
}
