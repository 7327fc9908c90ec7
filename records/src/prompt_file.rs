//! Prompts from files of any column names.
//!
//! ```text
//! column         prompts.column: a text, or message lists
//! messages       where the row has no such column
//! alpaca         instruction, input, history: one prompt, where the column is `instruction` or nothing else is there
//! prompt_ids     wherever they stand: they win
//! ```
//!
//! `system` (or `system_prompt`) beside any of the texts is the first turn of a conversation that has none. A row without
//! `prompt_id` gets its number. An empty text and a conversation that ends with the assistant's turn are no prompts.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::ids::Ids;
use crate::io::{Wanted, each_row};
use crate::layout::{self, SYSTEM, alpaca_prompt, present};
use crate::prompt::id_of;
use crate::raw_row::found;
use crate::{FieldProblem, Message, OnBadPrompt, Prompt, RecordError, Row};

/// The column of prompts in alpaca's layout.
const ALPACA: &str = "instruction";

/// Columns that must hold what a prompt can have, beside the column of prompts, where all columns are read.
const READ_OF_ALL: [&str; 3] = ["prompt_id", "prompt_ids", "messages"];

/// The prompts of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPrompts {
    /// In the file's order.
    pub prompts: Vec<Prompt>,
    /// Rows that were left out.
    pub skipped: usize,
}

/// A prompt with its place in the file, and the row's fields that are no part of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptRow {
    /// The prompt.
    pub prompt: Prompt,
    /// The row, from 0.
    pub row: usize,
    /// Every other field of the row: an answer, a source, a category.
    pub others: Map<String, Value>,
}

/// The rows of a file of prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPromptRows {
    /// In the file's order.
    pub rows: Vec<PromptRow>,
    /// Rows that were left out.
    pub skipped: usize,
    /// Which row was left out first, and why.
    pub first_skipped: Option<String>,
}

/// Reads the prompts of a file of any layout.
///
/// # Errors
/// The file cannot be read, a row is no prompt and `on_bad` says error, two rows have one id, or no row is a prompt.
pub fn read_prompts(path: &Path, column: &str, on_bad: OnBadPrompt) -> Result<ReadPrompts, RecordError> {
    read_prompt_files(&[path], column, on_bad)
}

/// Reads the prompts of several files that are one split, as [`read_prompts`] reads those of one.
///
/// Rows are numbered through all files, and a `prompt_id` stands once in all of them.
///
/// # Errors
/// As [`read_prompts`]; where two files have one id, both are named.
pub fn read_prompt_files<P: AsRef<Path>>(
    paths: &[P],
    column: &str,
    on_bad: OnBadPrompt,
) -> Result<ReadPrompts, RecordError> {
    let beside = ["prompt_id", "prompt_ids", "messages", ALPACA, "input", "history"];
    let names = [column].into_iter().chain(beside).chain(SYSTEM);
    let mut prompts = Vec::new();
    let wanted = Wanted::only(names.map(str::to_owned));
    let skipped = read(paths, column, on_bad, &wanted, &mut |_, prompt, _| {
        prompts.push(prompt);
        ControlFlow::Continue(())
    })?;
    Ok(ReadPrompts { prompts, skipped: skipped.count })
}

/// As [`read_prompt_files`], with the other fields of each row in [`Prompt::others`].
///
/// # Errors
/// As [`read_prompt_files`].
pub fn read_prompt_files_whole<P: AsRef<Path>>(
    paths: &[P],
    column: &str,
    on_bad: OnBadPrompt,
) -> Result<ReadPrompts, RecordError> {
    let mut prompts = Vec::new();
    let wanted = Wanted::all(READ_OF_ALL.into_iter().chain([column]).map(str::to_owned));
    let skipped = read(paths, column, on_bad, &wanted, &mut |_, mut prompt, row| {
        prompt.keep_others(row);
        prompts.push(prompt);
        ControlFlow::Continue(())
    })?;
    Ok(ReadPrompts { prompts, skipped: skipped.count })
}

/// As [`read_prompts`], with the other fields of each row; the reading ends after `most` prompts.
///
/// # Errors
/// As [`read_prompts`], of the rows that are read.
pub fn read_prompt_rows(
    path: &Path,
    column: &str,
    on_bad: OnBadPrompt,
    most: Option<usize>,
) -> Result<ReadPromptRows, RecordError> {
    let wanted = Wanted::all(READ_OF_ALL.into_iter().chain([column]).map(str::to_owned));
    let mut rows = Vec::new();
    let skipped = read(&[path], column, on_bad, &wanted, &mut |row, prompt, mut others| {
        for name in Prompt::OWN_FIELDS {
            others.remove(name);
        }
        rows.push(PromptRow { prompt, row, others });
        if Some(rows.len()) == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(ReadPromptRows { rows, skipped: skipped.count, first_skipped: skipped.first })
}

/// Rows that were left out.
#[derive(Default)]
struct Skipped {
    count: usize,
    /// The file of the first.
    path: PathBuf,
    first: Option<String>,
}

type Keep<'a> = dyn FnMut(usize, Prompt, Map<String, Value>) -> ControlFlow<()> + 'a;

fn read<P: AsRef<Path>>(
    paths: &[P],
    column: &str,
    on_bad: OnBadPrompt,
    wanted: &Wanted,
    keep: &mut Keep<'_>,
) -> Result<Skipped, RecordError> {
    let mut skipped = Skipped::default();
    let mut kept = 0;
    let mut ids = Ids::default();
    for path in paths.iter().map(AsRef::as_ref) {
        let before = kept + skipped.count;
        each_row(path, wanted, &mut |number, raw| {
            let row = raw.into_map().and_then(|map| match prompt_of(&map, column) {
                Ok(prompt) => Ok((prompt, map)),
                Err(problem) => Err(RowProblem::from(problem)),
            });
            match row {
                Ok((mut prompt, map)) => {
                    let numbered = prompt.prompt_id.is_empty();
                    prompt.number(before + number);
                    ids.add(path, number, &prompt.prompt_id, numbered)?;
                    kept += 1;
                    Ok(keep(number, prompt, map))
                }
                Err(problem) if on_bad == OnBadPrompt::Skip => {
                    skipped.count += 1;
                    if skipped.first.is_none() {
                        skipped.path = path.to_path_buf();
                        skipped.first = Some(format!("row {number}: {problem}"));
                    }
                    Ok(ControlFlow::Continue(()))
                }
                Err(problem) => Err(problem.at(path, number)),
            }
        })?;
    }
    match &skipped.first {
        _ if kept > 0 => Ok(skipped),
        Some(reason) => Err(RecordError::NoneUsable {
            path: skipped.path.clone(),
            skipped: skipped.count,
            noun: Prompt::NOUN,
            reason: reason.clone(),
        }),
        None => {
            let path = paths.first().map(|path| path.as_ref().to_path_buf()).unwrap_or_default();
            Err(RecordError::Empty { path, noun: Prompt::NOUN })
        }
    }
}

fn prompt_of(map: &Map<String, Value>, column: &str) -> Result<Prompt, FieldProblem> {
    let mut prompt = Prompt {
        prompt_id: present(map, "prompt_id").map(id_of).transpose()?.unwrap_or_default(),
        ..Prompt::default()
    };
    let alpaca = column == ALPACA || column == "prompt";
    match (present(map, column), present(map, "messages")) {
        // `prompt_ids` may be the column that is asked for.
        (Some(_), _) if column == "prompt_ids" => {}
        (Some(Value::String(text)), _) if text.trim().is_empty() => {
            return Err(FieldProblem::new(column, "a text", "an empty string"));
        }
        (Some(Value::String(_)), _) if column == ALPACA => set(&mut prompt, alpaca_prompt(map)?),
        (Some(Value::String(text)), _) => {
            set(&mut prompt, with_system(map, vec![Message::user(text.as_str())]));
        }
        (Some(turns @ Value::Array(_)), _) => {
            prompt.messages = Some(with_system(map, conversation(column, turns)?));
        }
        (Some(other), _) => {
            return Err(FieldProblem::new(column, "a string or an array of messages", found(other)));
        }
        (None, Some(turns)) => prompt.messages = Some(with_system(map, conversation("messages", turns)?)),
        (None, None) if alpaca && is_text(map, ALPACA) => set(&mut prompt, alpaca_prompt(map)?),
        (None, None) => {}
    }
    if let Some(ids) = present(map, "prompt_ids") {
        prompt.prompt_ids = Some(layout::token_ids("prompt_ids", ids)?);
    }
    if prompt.prompt.is_none() && prompt.messages.is_none() && prompt.prompt_ids.is_none() {
        let names: Vec<&str> = map.keys().map(String::as_str).collect();
        let expected = if column == "prompt" {
            "a string, or \"messages\" or \"prompt_ids\" in its place".to_owned()
        } else {
            "a string or an array of messages".to_owned()
        };
        return Err(FieldProblem::new(column, expected, format!("only [{}]", names.join(", "))));
    }
    prompt.check()?;
    Ok(prompt)
}

fn is_text(map: &Map<String, Value>, name: &str) -> bool {
    present(map, name).and_then(Value::as_str).is_some_and(|text| !text.trim().is_empty())
}

/// The turns as the prompt's: one user's turn alone is its text.
fn set(prompt: &mut Prompt, mut turns: Vec<Message>) {
    match turns.as_mut_slice() {
        [only] if only.role == "user" => prompt.prompt = Some(std::mem::take(&mut only.content)),
        _ => prompt.messages = Some(turns),
    }
}

/// The row's system text before the turns. A column of that name that holds something else is another matter.
fn with_system(map: &Map<String, Value>, turns: Vec<Message>) -> Vec<Message> {
    layout::with_system(map, turns.clone()).unwrap_or(turns)
}

fn conversation(field: &str, turns: &Value) -> Result<Vec<Message>, FieldProblem> {
    let turns = layout::messages(field, turns)?;
    match turns.last() {
        Some(last) if last.role == "assistant" => Err(FieldProblem::new(
            field,
            "a conversation that ends before the assistant's turn",
            "the assistant's turn at its end",
        )),
        Some(_) => Ok(turns),
        None => Err(FieldProblem::new(field, "at least one message", "an empty array")),
    }
}

#[cfg(test)]
mod tests;
