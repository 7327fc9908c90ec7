//! Questions and answers in FastChat's files.

use std::collections::HashMap;
use std::path::Path;

use selfplay_records::{FieldProblem, RecordError};
use serde_json::{Value, json};

use crate::suites::data_row::DataRow;
use crate::suites::fields;
use crate::suites::table_file::read_table;

/// A row of mt_bench_question.jsonl.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MtBenchQuestion {
    /// `question_id`.
    pub id: u64,
    /// `writing`, `math` and others.
    pub category: String,
    /// What the user says, turn by turn.
    pub turns: Vec<String>,
}

/// A row of a file of answers, also of reference answers: the first of its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelAnswer {
    /// `question_id`.
    pub question_id: u64,
    /// Who answered.
    pub model: String,
    /// The answers, turn by turn.
    pub turns: Vec<String>,
}

/// Whether a category's judge is shown reference answers.
pub fn needs_reference(category: &str) -> bool {
    matches!(category, "math" | "reasoning" | "coding" | "arena-hard-200")
}

/// The temperature that a category is answered with.
pub fn temperature(category: &str) -> f64 {
    match category {
        "extraction" | "math" | "coding" | "reasoning" | "arena-hard-200" => 0.0,
        "stem" | "humanities" => 0.1,
        _ => 0.7,
    }
}

/// Reads `question_id`, `category`, `turns`.
///
/// # Errors
/// A file that does not read, a row without one of them, an id twice.
pub fn read_questions(path: &Path) -> Result<Vec<MtBenchQuestion>, RecordError> {
    let mut seen = HashMap::new();
    each(path, |number, row| {
        let question = MtBenchQuestion {
            id: fields::index(row, "question_id")? as u64,
            category: fields::text(row, "category")?.to_owned(),
            turns: fields::texts(row, "turns")?,
        };
        if !(1..=2).contains(&question.turns.len()) {
            return Err(FieldProblem::new("turns", "one turn or two", question.turns.len()));
        }
        if let Some(first) = seen.insert(question.id, number) {
            let found = format!("{} again (row {first})", question.id);
            return Err(FieldProblem::new("question_id", "an id of its own", found));
        }
        Ok(question)
    })
}

/// Reads answers by their question: `question_id`, `model_id`, `choices[0].turns`.
///
/// # Errors
/// A file that does not read, a row without one of them.
pub fn read_answers(path: &Path) -> Result<HashMap<u64, ModelAnswer>, RecordError> {
    let answers = each(path, |_, row| {
        let turns = row.get("choices").and_then(|choices| fields::texts_of(&choices[0]["turns"]));
        let expected = "a list of answers, turn by turn";
        let turns = turns.ok_or_else(|| FieldProblem::new("choices[0].turns", expected, "another value"))?;
        let model = fields::text(row, "model_id")?.to_owned();
        Ok(ModelAnswer { question_id: fields::index(row, "question_id")? as u64, model, turns })
    })?;
    Ok(answers.into_iter().map(|answer| (answer.question_id, answer)).collect())
}

fn each<T>(
    path: &Path,
    mut read: impl FnMut(usize, &DataRow) -> Result<T, FieldProblem>,
) -> Result<Vec<T>, RecordError> {
    let rows = read_table(path)?;
    let at = |row| move |problem| RecordError::Field { path: path.to_path_buf(), row, problem };
    rows.iter().enumerate().map(|(number, row)| read(number, row).map_err(at(number))).collect()
}

impl ModelAnswer {
    /// Its row in FastChat's file. The id is of question and model, and the time is left at 0, so that equal answers are equal files.
    pub fn to_value(&self) -> Value {
        json!({
            "question_id": self.question_id,
            "answer_id": format!("{}-{}", self.model, self.question_id),
            "model_id": self.model,
            "choices": [{"index": 0, "turns": self.turns}],
            "tstamp": 0.0,
        })
    }
}
