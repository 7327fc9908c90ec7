//! Pairs in the layouts that preference data is published in.
//!
//! The layout is found in the first row and holds for the file:
//!
//! ```text
//! ids            prompt_ids, chosen_ids, rejected_ids            our own; texts may stand beside them
//! messages       chosen, rejected: [{role, content}]; prompt: [..] or text or absent
//! texts          prompt (question, query), chosen, rejected: text, or {role, content} for the replies
//! alpaca         instruction, input, system, history, chosen, rejected: text
//! sharegpt       conversations: [{from, value}], chosen, rejected: {from, value} or text
//! transcripts    chosen, rejected: "\n\nHuman: … \n\nAssistant: …"
//! ```
//!
//! `reject` is read as `rejected`, and `system` (or `system_prompt`) beside any of them is the first turn of a conversation
//! that has none. Where the two conversations carry their prompts, the prompt is their longest common
//! beginning if it ends before an assistant's turn, and each reply is the turn after it; later turns, which answer
//! different conversations, are left out. Identical replies, empty ones and pairs without a common prompt teach
//! nothing: such rows are left out and told. Rows with ids are taken as they are.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::io::{Wanted, each_row};
use crate::layout::{self, alpaca_prompt, present, text};
use crate::raw_row::{RawRow, found};
use crate::shown::quoted;
use crate::{FieldProblem, Message, Pair, RecordError, Row, transcript};

/// The pairs of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPairs {
    /// In the file's order; each has either all three lists of ids or `prompt`, `chosen` and `rejected`, or both.
    pub pairs: Vec<Pair>,
    /// The rows that were left out.
    pub skipped: Vec<SkippedPair>,
}

/// A row that is no pair to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SkippedPair {
    /// The row, from 0.
    pub row: usize,
    /// Why it was left out.
    pub reason: SkipReason,
}

/// Why a row is no pair to learn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Both replies are the same.
    Identical,
    /// A reply is empty or missing.
    EmptyReply,
    /// The two conversations part at a turn that is not the assistant's.
    DifferentPrompts,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identical => "the chosen and the rejected reply are the same",
            Self::EmptyReply => "a reply is empty",
            Self::DifferentPrompts => "the chosen and the rejected reply answer different prompts",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PairLayout {
    Ids,
    Messages,
    Texts { prompt: &'static str },
    Alpaca,
    ShareGpt,
    Transcripts,
}

const KNOWN: &str = "ids (prompt_ids, chosen_ids, rejected_ids), message lists (chosen, rejected, perhaps prompt), \
    texts (prompt, chosen, rejected), alpaca (instruction, input, chosen, rejected), sharegpt (conversations, chosen, \
    rejected) or transcripts (chosen, rejected beginning with \"Human:\")";

/// Columns of these layouts beside those of a [`Pair`].
const COLUMNS: [&str; 9] = [
    "question",
    "query",
    "reject",
    "instruction",
    "input",
    "history",
    "conversations",
    layout::SYSTEM[0],
    layout::SYSTEM[1],
];

/// Reads the pairs of a file in any layout that is known: our own, message lists, texts, alpaca, sharegpt, hh-rlhf.
///
/// # Errors
/// The file cannot be read, its layout is unknown, a row does not fit it, or no row is a pair to learn from.
pub fn read_pairs(path: &Path) -> Result<ReadPairs, RecordError> {
    let mut read = ReadPairs { pairs: Vec::new(), skipped: Vec::new() };
    let mut layout = None;
    let ours = Pair::schema(&[]).into_iter().map(|column| column.name);
    let wanted = Wanted::only(ours.chain(COLUMNS.map(str::to_owned)));
    each_row(path, &wanted, &mut |number, raw| {
        let mut map = raw.into_map().map_err(|problem| problem.at(path, number))?;
        if !map.contains_key("rejected")
            && let Some(rejected) = map.remove("reject")
        {
            map.insert("rejected".to_owned(), rejected);
        }
        let layout = match layout {
            Some(layout) => layout,
            None => *layout.insert(PairLayout::of(&map).ok_or_else(|| RecordError::Layout {
                path: path.to_path_buf(),
                row: number,
                noun: Pair::NOUN,
                found: quoted(&layout::fields(&map)),
                expected: KNOWN,
            })?),
        };
        match layout.pair(map).map_err(|problem| problem.at(path, number))? {
            PairOrSkip::Pair(pair) => read.pairs.push(*pair),
            PairOrSkip::Skip(reason) => read.skipped.push(SkippedPair { row: number, reason }),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    match read.skipped.first() {
        _ if !read.pairs.is_empty() => Ok(read),
        Some(first) => Err(RecordError::NoneUsable {
            path: path.to_path_buf(),
            skipped: read.skipped.len(),
            noun: Pair::NOUN,
            reason: format!("row {}: {}", first.row, first.reason),
        }),
        None => Err(RecordError::Empty { path: path.to_path_buf(), noun: Pair::NOUN }),
    }
}

enum PairOrSkip {
    Pair(Box<Pair>),
    Skip(SkipReason),
}

impl PairLayout {
    fn of(map: &Map<String, Value>) -> Option<Self> {
        if ["prompt_ids", "chosen_ids", "rejected_ids"].iter().all(|name| present(map, name).is_some()) {
            return Some(Self::Ids);
        }
        let chosen = present(map, "chosen")?;
        present(map, "rejected")?;
        let texts = |name: &&str| matches!(present(map, name), Some(Value::String(_) | Value::Array(_)));
        match chosen {
            _ if present(map, "conversations").is_some() => Some(Self::ShareGpt),
            Value::Array(_) => Some(Self::Messages),
            // A reply of its own, as a text or as one message.
            Value::String(_) | Value::Object(_) => {
                if let Some(prompt) = ["prompt", "question", "query"].into_iter().find(texts) {
                    Some(Self::Texts { prompt })
                } else if present(map, "instruction").is_some() {
                    Some(Self::Alpaca)
                } else {
                    chosen.as_str().is_some_and(transcript::is_transcript).then_some(Self::Transcripts)
                }
            }
            _ => None,
        }
    }

    fn pair(self, map: Map<String, Value>) -> Result<PairOrSkip, RowProblem> {
        Ok(match self {
            Self::Ids => {
                let pair: Pair = RawRow::Value(Value::Object(with_prompt_turns(map)?)).into_row()?;
                pair.check()?;
                PairOrSkip::Pair(Box::new(pair))
            }
            Self::Messages => {
                let prompt = match present(&map, "prompt") {
                    Some(turns @ Value::Array(_)) => layout::messages("prompt", turns)?,
                    // Beside whole conversations the text only repeats the prompt's last turn.
                    Some(Value::String(text)) => vec![Message::user(text.as_str())],
                    Some(other) => {
                        let expected = "an array of messages or a string";
                        return Err(FieldProblem::new("prompt", expected, found(other)).into());
                    }
                    None => Vec::new(),
                };
                let whole = |name: &str| layout::with_system(&map, after(&prompt, conversation(&map, name)?));
                part(&map, whole("chosen")?, whole("rejected")?)?
            }
            Self::Texts { prompt } => {
                let prompt = match map.get(prompt) {
                    Some(turns @ Value::Array(_)) => layout::messages(prompt, turns)?,
                    _ => {
                        let text = text(&map, prompt)?;
                        // hh-rlhf with the prompt split off keeps its speakers, an empty last "Assistant:" among them.
                        let mut turns =
                            transcript::prompt_turns(text).unwrap_or_else(|| vec![Message::user(text)]);
                        if turns
                            .last()
                            .is_some_and(|last| last.role == "assistant" && last.content.is_empty())
                        {
                            turns.pop();
                        }
                        turns
                    }
                };
                replies(&map, layout::with_system(&map, prompt)?)?
            }
            Self::Alpaca => replies(&map, alpaca_prompt(&map)?)?,
            Self::ShareGpt => {
                let turns = present(&map, "conversations").unwrap_or(&Value::Null);
                let prompt = layout::messages("conversations", turns)?;
                replies(&map, layout::with_system(&map, prompt)?)?
            }
            Self::Transcripts => {
                let turns = |name: &str| {
                    let text = text(&map, name)?;
                    let expected = "a transcript that begins with \"Human:\"";
                    let turns = transcript::turns(text)
                        .ok_or_else(|| FieldProblem::new(name, expected, "another text"))?;
                    layout::with_system(&map, turns)
                };
                part(&map, turns("chosen")?, turns("rejected")?)?
            }
        })
    }
}

/// Two replies, each a text or a message, to one prompt.
fn replies(map: &Map<String, Value>, prompt: Vec<Message>) -> Result<PairOrSkip, RowProblem> {
    let reply = |name: &str| match present(map, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(turn @ Value::Object(_)) => layout::message(name, turn).map(|turn| turn.content),
        Some(other) => Err(FieldProblem::new(name, "a string or a message", found(other))),
        None => Err(FieldProblem::new(name, "a string or a message", "no such field")),
    };
    let (chosen, rejected) = (reply("chosen")?, reply("rejected")?);
    make(map, prompt, chosen, rejected)
}

fn conversation(map: &Map<String, Value>, name: &str) -> Result<Vec<Message>, FieldProblem> {
    let turns = layout::messages(name, map.get(name).unwrap_or(&Value::Null))?;
    if turns.is_empty() {
        Err(FieldProblem::new(name, "at least one message", "an empty array"))
    } else {
        Ok(turns)
    }
}

/// The whole conversation: a list that begins with the assistant's turn is the reply alone.
fn after(prompt: &[Message], turns: Vec<Message>) -> Vec<Message> {
    match turns.first() {
        Some(first) if first.role == "assistant" => prompt.iter().cloned().chain(turns).collect(),
        _ => turns,
    }
}

/// Parts two conversations into their common prompt and the replies.
fn part(
    map: &Map<String, Value>,
    chosen: Vec<Message>,
    rejected: Vec<Message>,
) -> Result<PairOrSkip, RowProblem> {
    if chosen == rejected {
        return Ok(PairOrSkip::Skip(SkipReason::Identical));
    }
    let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    // Where one conversation ends at the parting, its reply is missing.
    if common > 0 && (common == chosen.len() || common == rejected.len()) {
        return Ok(PairOrSkip::Skip(SkipReason::EmptyReply));
    }
    match (chosen.get(common), rejected.get(common)) {
        (Some(a), Some(b)) if common > 0 && a.role == "assistant" && b.role == "assistant" => {
            make(map, chosen[..common].to_vec(), a.content.clone(), b.content.clone())
        }
        _ => Ok(PairOrSkip::Skip(SkipReason::DifferentPrompts)),
    }
}

fn make(
    map: &Map<String, Value>,
    prompt: Vec<Message>,
    chosen: String,
    rejected: String,
) -> Result<PairOrSkip, RowProblem> {
    if prompt.last().is_none_or(|last| last.role == "assistant") {
        return Ok(PairOrSkip::Skip(SkipReason::DifferentPrompts));
    }
    if chosen.trim().is_empty() || rejected.trim().is_empty() {
        return Ok(PairOrSkip::Skip(SkipReason::EmptyReply));
    }
    if chosen == rejected {
        return Ok(PairOrSkip::Skip(SkipReason::Identical));
    }
    let answered = |reply: String| {
        let turns = prompt.iter().cloned().chain([Message::assistant(reply)]);
        Some(turns.collect::<Vec<_>>())
    };
    let (chosen, rejected) = (answered(chosen), answered(rejected));
    // Scores, reference log-probs and the id stand beside the texts in every layout.
    let mut rest = map.clone();
    for texts in ["prompt", "chosen", "rejected"] {
        rest.remove(texts);
    }
    let rest: Pair = RawRow::Value(Value::Object(rest)).into_row()?;
    let pair = Pair { prompt: Some(prompt), chosen, rejected, ..rest };
    pair.check()?;
    Ok(PairOrSkip::Pair(Box::new(pair)))
}

/// The row with `prompt` as a message list, where it is a text.
fn with_prompt_turns(mut map: Map<String, Value>) -> Result<Map<String, Value>, FieldProblem> {
    if let Some(Value::String(text)) = map.get("prompt") {
        let turn = serde_json::json!([{ "role": "user", "content": text }]);
        map.insert("prompt".to_owned(), turn);
    }
    // Texts beside ids only inform: replies that stand alone as strings become turns as well.
    for name in ["chosen", "rejected"] {
        if let Some(Value::String(text)) = map.get(name) {
            let mut turns: Vec<Value> =
                Vec::deserialize(map.get("prompt").unwrap_or(&Value::Null)).unwrap_or_default();
            turns.push(serde_json::json!({ "role": "assistant", "content": text }));
            map.insert(name.to_owned(), Value::Array(turns));
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests;
