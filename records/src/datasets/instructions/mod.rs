//! The layouts of instructions: a prompt and the reply to imitate.

mod alpaca;
mod beavertails;
mod belle;
mod chosen;
mod dolly;
mod ids;
mod messages;
mod oasst;
mod prompt_response;
mod sharegpt;

use std::path::Path;

use serde_json::{Map, Value};

use super::layout::{DataExample, DataLayout, RowFields, RowReading};
use super::oddity::Oddity;
use super::read::no_file;
use crate::error::RowProblem;
use crate::layout::present;
use crate::{FieldProblem, Instruction, Message, RecordError};

static ALL: [&DataLayout<Instruction>; 11] = [
    &ids::LAYOUT,
    &messages::LAYOUT,
    &sharegpt::LAYOUT,
    &alpaca::LAYOUT,
    &alpaca::WITH_INPUT_APART,
    &prompt_response::LAYOUT,
    &dolly::LAYOUT,
    &belle::LAYOUT,
    &beavertails::LAYOUT,
    &oasst::LAYOUT,
    &chosen::LAYOUT,
];

impl DataExample for Instruction {
    const EXAMPLES: &'static str = "instructions";
    const MIXED: bool = true;

    fn layouts() -> &'static [&'static DataLayout<Self>] {
        &ALL
    }

    fn unknown(path: &Path, row: usize, fields: &Map<String, Value>) -> RecordError {
        unknown_fields(fields).at(path, row)
    }
}

/// What is missing in a row that no layout fits: the rest of the one that it comes nearest to, or a layout at all.
fn unknown_fields(fields: &RowFields) -> RowProblem {
    let nearest = if present(fields, "instruction").is_some() {
        Some(&alpaca::LAYOUT)
    } else if prompt_response::PROMPTS.iter().any(|name| present(fields, name).is_some())
        && present(fields, "chosen").is_none()
    {
        Some(&prompt_response::LAYOUT)
    } else {
        None
    };
    if let Some(RowReading::Row(read)) = nearest.map(|layout| &layout.reading)
        && let Err(problem) = read(fields, &mut Vec::new())
    {
        return problem;
    }
    let names: Vec<&str> = fields.keys().map(String::as_str).collect();
    let hint = if present(fields, "chosen").is_some() {
        "; to imitate the chosen replies of pairs say layout = \"chosen\""
    } else {
        ""
    };
    let expected = format!(
        "\"messages\", \"conversations\", \"instruction\" and \"output\", \"prompt\" and \"response\", or \
         \"prompt_ids\" and \"response_ids\", or a column map{hint}"
    );
    FieldProblem::new("messages", expected, format!("only [{}]", names.join(", "))).into()
}

/// The instruction of one row whose columns say its layout; a row that would be left out of a file is wrong here.
pub(crate) fn instruction_of(fields: &RowFields) -> Result<Instruction, String> {
    let layout = DataLayout::<Instruction>::of(no_file(), 0, fields).map_err(|error| match error {
        RecordError::Field { problem, .. } => problem.to_string(),
        other => other.to_string(),
    })?;
    let mut odd = Vec::new();
    let mut found = match &layout.reading {
        RowReading::Row(read) => read(fields, &mut odd).map_err(|problem| problem.to_string())?,
        RowReading::Group(group) => {
            (group.read)(std::slice::from_ref(fields), &mut odd).map_err(|wrong| wrong.problem.to_string())?
        }
    };
    match (found.pop(), odd.first()) {
        (Some(one), _) => Ok(one),
        // A row that was written as an instruction is read as one, also where a data set's would be left out.
        (None, Some(Oddity::EmptyReply)) if std::ptr::eq(layout, &messages::LAYOUT) => {
            let turns = fields.get("messages").unwrap_or(&Value::Null);
            let turns = crate::layout::messages("messages", turns).map_err(|problem| problem.to_string())?;
            Ok(Instruction { messages: turns, ..Instruction::default() })
        }
        (None, Some(kind)) => Err(FieldProblem::new("messages", "a reply to learn", kind).to_string()),
        (None, None) => Err(FieldProblem::new("messages", "a reply to learn", "none").to_string()),
    }
}

/// The instruction of a conversation, if there is one.
fn of_messages(messages: Option<Vec<Message>>) -> Vec<Instruction> {
    messages.into_iter().map(|messages| Instruction { messages, ..Instruction::default() }).collect()
}

#[cfg(test)]
mod tests;
