//! What a judge is asked: wordings in the form of FastChat's judge_prompts.jsonl, filled in.

use std::collections::HashMap;
use std::path::Path;

use selfplay_records::{FieldProblem, RecordError};
use serde_json::Value;

use super::question::{ModelAnswer, MtBenchQuestion, needs_reference};
use crate::suites::data_row::DataRow;
use crate::suites::fields;
use crate::suites::table_file::read_table;

/// Our own wordings, for when no file is given.
pub const OWN_WORDING: &str = include_str!("wording.jsonl");

/// A wording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgePrompt {
    /// `single-v1`, `pair-math-v1-multi-turn` and others.
    pub name: String,
    /// The system's turn.
    pub system: String,
    /// The user's turn, with `{question}` and other places.
    pub template: String,
}

/// All wordings of a file, by name.
#[derive(Clone, Debug)]
pub struct JudgePrompts(HashMap<String, JudgePrompt>);

/// One turn to be judged: the answers of one model, or of two.
#[derive(Clone, Copy, Debug)]
pub struct JudgedTurn<'a> {
    /// The question.
    pub question: &'a MtBenchQuestion,
    /// The reference answer, where the category has one.
    pub reference: Option<&'a ModelAnswer>,
    /// Whether it is the second turn that is judged, with the first before it.
    pub is_second: bool,
}

impl JudgePrompts {
    /// Reads `name`, `system_prompt`, `prompt_template`.
    ///
    /// # Errors
    /// A file that does not read, a row without one of them.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let rows = read_table(path)?;
        let read = |(number, row): (usize, &DataRow)| {
            prompt(row).map_err(|problem| RecordError::Field {
                path: path.to_path_buf(),
                row: number,
                problem,
            })
        };
        Ok(Self(rows.iter().enumerate().map(read).collect::<Result<_, _>>()?))
    }

    /// [`OWN_WORDING`].
    pub fn own() -> Self {
        let rows = OWN_WORDING.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        Self(rows.filter_map(|row| prompt(row.as_object()?).ok()).collect())
    }

    /// The wording for a turn, `single` or `pair`: FastChat's names for it.
    ///
    /// # Errors
    /// The name that the file lacks.
    pub fn of(&self, is_pair: bool, turn: &JudgedTurn<'_>) -> Result<&JudgePrompt, String> {
        let kind = match (is_pair, needs_reference(&turn.question.category)) {
            (false, false) => "single-v1",
            (false, true) => "single-math-v1",
            (true, false) => "pair-v2",
            (true, true) => "pair-math-v1",
        };
        let name = if turn.is_second { format!("{kind}-multi-turn") } else { kind.to_owned() };
        self.0.get(&name).ok_or(name)
    }
}

fn prompt(row: &DataRow) -> Result<(String, JudgePrompt), FieldProblem> {
    let text = |name| fields::text(row, name).map(str::to_owned);
    let prompt = JudgePrompt {
        name: text("name")?,
        system: text("system_prompt")?,
        template: text("prompt_template")?,
    };
    Ok((prompt.name.clone(), prompt))
}

impl JudgePrompt {
    /// The user's turn about one model's answer.
    ///
    /// # Errors
    /// A place in the template that has no name of FastChat's.
    pub fn single(&self, turn: &JudgedTurn<'_>, answer: &ModelAnswer) -> Result<String, String> {
        let at = |turns: &[String], place: usize| turns.get(place).cloned().unwrap_or_default();
        let mut values = turn.values();
        values.insert("answer", at(&answer.turns, 0));
        values.insert("answer_1", at(&answer.turns, 0));
        values.insert("answer_2", at(&answer.turns, 1));
        filled(&self.template, &values)
    }

    /// The user's turn about the answers of two models.
    ///
    /// # Errors
    /// As [`JudgePrompt::single`].
    pub fn pair(&self, turn: &JudgedTurn<'_>, a: &ModelAnswer, b: &ModelAnswer) -> Result<String, String> {
        let at = |turns: &[String], place: usize| turns.get(place).cloned().unwrap_or_default();
        let mut values = turn.values();
        for (name, answer, place) in [
            ("answer_a", a, 0),
            ("answer_b", b, 0),
            ("answer_a_1", a, 0),
            ("answer_b_1", b, 0),
            ("answer_a_2", a, 1),
            ("answer_b_2", b, 1),
        ] {
            values.insert(name, at(&answer.turns, place));
        }
        filled(&self.template, &values)
    }
}

impl JudgedTurn<'_> {
    fn values(&self) -> HashMap<&'static str, String> {
        let at = |turns: &[String], place: usize| turns.get(place).cloned().unwrap_or_default();
        let mut values = HashMap::from([
            ("question", at(&self.question.turns, 0)),
            ("question_1", at(&self.question.turns, 0)),
            ("question_2", at(&self.question.turns, 1)),
        ]);
        if let Some(reference) = self.reference {
            values.insert("ref_answer_1", at(&reference.turns, 0));
            values.insert("ref_answer_2", at(&reference.turns, 1));
        }
        values
    }
}

/// Python's `str.format` with names: `{name}` is its value, `{{` and `}}` are braces.
fn filled(template: &str, values: &HashMap<&'static str, String>) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(place) = rest.find(['{', '}']) {
        text.push_str(&rest[..place]);
        let brace = &rest[place..=place];
        rest = &rest[place + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            text.push_str(brace);
            rest = after;
            continue;
        }
        let end = rest.find('}').filter(|_| brace == "{");
        let end = end.ok_or_else(|| format!("a brace without its other half: {}", shortened(rest)))?;
        let name = &rest[..end];
        text.push_str(values.get(name).ok_or_else(|| format!("the place {{{name}}} has no value"))?);
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    Ok(text)
}

fn shortened(text: &str) -> String {
    text.chars().take(30).collect()
}
