//! IFEval (arXiv 2311.07911): instructions that a program can check, 25 kinds, by the published checkers' semantics.
//!
//! A row is followed **strictly** where the answer as it stands follows every instruction; **loosely** where for each instruction some of eight
//! forms of the answer does: as it stands or without asterisks, each whole, without its first line, without its last, without both. An
//! empty answer follows nothing.
//!
//! ```text
//! instruction   ids and arguments → CheckedInstruction      check     does an answer follow it
//! sentences     Punkt's sentence boundaries          words     NLTK's word tokens
//! language      which language a text is in
//! ```
//!
//! Departures from the published programs (google-research's, and lm-eval's `ifeval`):
//! - **language**: `whatlang` instead of `langdetect`, whose draws are random. They agree on texts of some sentences; on a few words, on texts in
//!   capitals and between close languages they may not. Swahili (`sw`) is no language of whatlang's: such an instruction counts as not
//!   followed. Text without a letter counts as followed, as there.
//! - **sentences**: Punkt's algorithm with a short list of English abbreviations; NLTK's trained English parameters (`punkt_tab/english`) are read
//!   where they are given by path.
//! - **arguments that a row lacks** are an error here; there they are drawn at random. A letter that is no letter of a to z is counted here; there
//!   another one is drawn.

mod check;
mod instruction;
mod language;
mod sentences;
mod words;

use std::path::Path;

use selfplay_records::{FieldProblem, RecordError};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::instruction::{CheckedInstruction, INSTRUCTION_IDS};
pub use self::sentences::SentenceSplitter;
use super::data_row::DataRow;
use super::fields;
use super::table_file::read_table;

/// Tokens of an answer at most, as lm-eval has it.
pub const MAX_NEW_TOKENS: usize = 1280;

/// A row of input_data.jsonl.
#[derive(Clone, Debug)]
pub struct InstructionRow {
    /// `key`.
    pub key: String,
    /// What the model is asked.
    pub prompt: String,
    /// The names of its instructions.
    pub ids: Vec<String>,
    /// Its instructions, in the same order.
    pub instructions: Vec<CheckedInstruction>,
}

/// Which of a row's instructions an answer follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    /// As it stands.
    pub strict: Vec<bool>,
    /// In one of its eight forms.
    pub loose: Vec<bool>,
}

/// Reads `key`, `prompt`, `instruction_id_list` and `kwargs`.
///
/// # Errors
/// A file that does not read; a row without one of these, with an instruction that is unknown or lacks an argument.
pub fn read(path: &Path) -> Result<Vec<InstructionRow>, RecordError> {
    let rows = read_table(path)?;
    let read = |(number, row): (usize, &DataRow)| {
        instruction_row(row).map_err(|problem| RecordError::Field {
            path: path.to_path_buf(),
            row: number,
            problem,
        })
    };
    rows.iter().enumerate().map(read).collect()
}

fn instruction_row(row: &DataRow) -> Result<InstructionRow, FieldProblem> {
    let ids = fields::texts(row, "instruction_id_list")?;
    let prompt = fields::text(row, "prompt")?.to_owned();
    let expected = format!("{} objects, one for each instruction", ids.len());
    let arguments = row.get("kwargs").and_then(Value::as_array).filter(|list| list.len() == ids.len());
    let Some(arguments) = arguments else {
        let found = row.get("kwargs").map_or("nothing".to_owned(), Value::to_string);
        return Err(FieldProblem::new("kwargs", expected, found));
    };
    let none = DataRow::new();
    let read = |(id, arguments): (&String, &Value)| {
        let arguments = match arguments {
            Value::Null => &none,
            Value::Object(map) => map,
            other => return Err(FieldProblem::new("kwargs", &expected, other)),
        };
        CheckedInstruction::read(id, arguments)
    };
    let instructions = ids.iter().zip(arguments).map(read).collect::<Result<_, _>>()?;
    Ok(InstructionRow { key: fields::text_or_integer(row, "key")?, prompt, ids, instructions })
}

/// Checks an answer against a row's instructions.
pub fn followed(row: &InstructionRow, answer: &str, sentences: &SentenceSplitter) -> Followed {
    let forms = loose_forms(answer);
    let follows = |instruction: &CheckedInstruction, text: &str| {
        !text.trim().is_empty() && check::follows(instruction, text, sentences)
    };
    Followed {
        strict: row.instructions.iter().map(|one| follows(one, answer)).collect(),
        loose: row.instructions.iter().map(|one| forms.iter().any(|form| follows(one, form))).collect(),
    }
}

/// The forms of an answer that the loose figures try.
fn loose_forms(answer: &str) -> Vec<String> {
    let lines: Vec<&str> = answer.split('\n').collect();
    let joined = |lines: &[&str]| lines.join("\n").trim().to_owned();
    let last = lines.len() - 1;
    let inner = if lines.len() < 2 { &[][..] } else { &lines[1..last] };
    let mut forms = vec![answer.to_owned(), joined(&lines[1..]), joined(&lines[..last]), joined(inner)];
    forms.extend(forms.clone().iter().map(|form| form.replace('*', "")));
    forms
}

/// The four figures of a row: prompt_level_strict_acc, inst_level_strict_acc, and the same loosely. An instruction-level figure is of all
/// instructions of all rows: see [`instruction_level`].
pub fn all_followed(followed: &[bool]) -> f64 {
    f64::from(u8::from(followed.iter().all(|one| *one)))
}

/// Every instruction of every row as one value.
pub fn instruction_level<'f>(rows: impl IntoIterator<Item = &'f [bool]>) -> Vec<f64> {
    rows.into_iter().flatten().map(|one| f64::from(u8::from(*one))).collect()
}

#[cfg(test)]
mod tests;
