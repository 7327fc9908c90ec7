//! What a synthesis begins with: prompts, or instructions with answers, in every layout that the other commands read.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use selfplay_records::{Instruction, Message, OnBadPrompt, Prompt, read_prompt_rows, read_rows, read_values};

use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::{SynthesisMethod, SynthesizeSection};

/// A request of people, or of an earlier synthesis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seed {
    /// Of its own among the seeds.
    pub(super) id: String,
    /// The conversation up to the answer.
    pub(super) messages: Vec<Message>,
    /// The answer, where the file has one.
    pub(super) answer: Option<String>,
}

impl Seed {
    /// The user's last turn.
    pub(super) fn instruction(&self) -> &str {
        self.messages.iter().rev().find(|turn| turn.role == "user").map_or("", |turn| turn.content.as_str())
    }

    fn of_prompt(id: String, prompt: Prompt) -> std::result::Result<Self, String> {
        let messages = match (prompt.messages, prompt.prompt) {
            (Some(messages), _) => messages,
            (None, Some(text)) => vec![Message::user(text)],
            (None, None) => return Err("token ids alone; a prompt in text is wanted".to_owned()),
        };
        Ok(Self { id, messages, answer: None })
    }

    fn of_instruction(id: String, instruction: Instruction) -> std::result::Result<Self, String> {
        let mut messages = instruction.messages;
        let Some(answer) = messages.pop() else {
            return Err("token ids alone; an instruction in text is wanted".to_owned());
        };
        Ok(Self { id, messages, answer: Some(answer.content) })
    }
}

/// The seeds' files and the seeds in them; none where the section names none.
///
/// # Errors
/// Files that are not there or do not read, a row that is no seed, seeds without answers where the method needs them.
pub(super) fn read(section: &SynthesizeSection, hub: &Hub) -> Result<(Vec<PathBuf>, Vec<Seed>)> {
    let Some(source) = &section.seeds else { return Ok((Vec::new(), Vec::new())) };
    let files = hub.data_files(source)?;
    let most = section.max_seeds.unwrap_or(usize::MAX);
    let mut seeds = Vec::new();
    for file in &files {
        let left = most - seeds.len();
        if left == 0 {
            break;
        }
        seeds.extend(read_file(file, left, seeds.len())?);
    }
    let of = |file: &Path| EngineError::input(format!("{}: no seed in it", file.display()));
    if seeds.is_empty() {
        return Err(of(files.first().map_or(Path::new("synthesize.seeds"), PathBuf::as_path)));
    }
    let mut ids = HashSet::new();
    if let Some(twice) = seeds.iter().find(|seed| !ids.insert(seed.id.as_str())) {
        return Err(EngineError::input(format!(
            "synthesize.seeds: two seeds have the prompt_id \"{}\"; give every one its own, or none",
            selfplay_records::shown::quoted(&twice.id)
        )));
    }
    if section.method == SynthesisMethod::ReferenceAnswers
        && let Some(row) = seeds.iter().position(|seed| seed.answer.is_none())
    {
        let file = files.first().map_or(Path::new(""), PathBuf::as_path);
        return Err(EngineError::input(format!(
            "{}: row {row}: no answer; reference-answers needs instructions with answers, as `selfplay sft --data` reads them",
            file.display()
        )));
    }
    Ok((files, seeds))
}

/// Seeds of one file, `most` at most; rows without an id are numbered from `first`.
fn read_file(file: &Path, most: usize, first: usize) -> Result<Vec<Seed>> {
    let at =
        |row: usize, problem: String| EngineError::input(format!("{}: row {row}: {problem}", file.display()));
    // The first row tells what the file is: an instruction has an answer.
    let values = read_values(file)?;
    let has_answers = values.first().is_some_and(|row| Instruction::try_from(row.clone()).is_ok());
    let id = |row: usize| {
        let given = values.get(row).and_then(|fields| fields.get("prompt_id"));
        match given {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(number @ serde_json::Value::Number(_)) => number.to_string(),
            _ => (first + row).to_string(),
        }
    };
    if has_answers {
        let rows: Vec<Instruction> = read_rows(file)?;
        let seeds = rows.into_iter().take(most).enumerate();
        return seeds
            .map(|(row, one)| Seed::of_instruction(id(row), one).map_err(|problem| at(row, problem)))
            .collect();
    }
    let column =
        if values.first().is_some_and(|row| row.contains_key("prompt")) { "prompt" } else { "instruction" };
    let read = read_prompt_rows(file, column, OnBadPrompt::Error, Some(most))?;
    read.rows
        .into_iter()
        .map(|one| Seed::of_prompt(id(one.row), one.prompt).map_err(|problem| at(one.row, problem)))
        .collect()
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;
    use crate::recipe::DataSource;

    fn seeds(text: &str, method: SynthesisMethod) -> Result<Vec<Seed>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seeds.jsonl");
        atomic::write_bytes(&file, text.as_bytes()).unwrap();
        let section = SynthesizeSection {
            seeds: Some(DataSource::File(file)),
            method,
            max_seeds: Some(2),
            ..SynthesizeSection::default()
        };
        read(&section, &Hub::default()).map(|(_, seeds)| seeds)
    }

    #[test]
    fn prompts_and_instructions_are_seeds() {
        let found = seeds(
            "{\"prompt\": \"a\"}\n{\"prompt_id\": 7, \"prompt\": \"b\"}\n{\"prompt\": \"c\"}\n",
            SynthesisMethod::StrongWeak,
        );
        let found = found.unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].id.as_str(), found[0].instruction(), &found[0].answer), ("0", "a", &None));
        assert_eq!((found[1].id.as_str(), found[1].instruction()), ("7", "b"));
        let found = seeds(
            "{\"instruction\": \"Sum\", \"input\": \"1 2\", \"output\": \"3\"}\n",
            SynthesisMethod::ReferenceAnswers,
        );
        let found = found.unwrap();
        assert!(found[0].instruction().starts_with("Sum") && found[0].instruction().ends_with("1 2"));
        assert_eq!(found[0].answer.as_deref(), Some("3"));
        let twice = "{\"prompt_id\": 1, \"instruction\": \"a\", \"output\": \"b\"}\n".repeat(2);
        let error = seeds(&twice, SynthesisMethod::Explanations).unwrap_err();
        assert!(error.to_string().contains("two seeds have the prompt_id \"1\""), "{error}");
        let error = seeds("{\"prompt\": \"a\"}\n", SynthesisMethod::ReferenceAnswers).unwrap_err();
        assert!(error.to_string().contains("row 0: no answer"), "{error}");
    }
}
