//! The files of each suite, as the hub's data sets have them, and the texts that lm-eval makes of their rows.

use std::path::Path;

use fancy_regex::Regex;
use selfplay_records::{FieldProblem, RecordError};
use serde_json::Value;

use super::question::{ChoiceQuestion, Correct};
use crate::suites::data_row::DataRow;
use crate::suites::fewshot::FewshotRule;
use crate::suites::table_file::read_table;
use crate::suites::{fields, pattern};

/// A suite of questions with choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChoiceLayout {
    /// `allenai/ai2_arc`, ARC-Easy or ARC-Challenge: `question`, `choices {text, label}`, `answerKey`.
    Arc,
    /// `Rowan/hellaswag`: `activity_label`, `ctx_a`, `ctx_b`, `endings`, `label`.
    HellaSwag,
    /// `allenai/winogrande`: `sentence` with a gap `_`, `option1`, `option2`, `answer`.
    WinoGrande,
    /// `cais/mmlu`: `question`, `choices`, `answer`, `subject`; or MMLU's own files: question, A, B, C, D, answer.
    Mmlu,
    /// `truthfulqa/truthful_qa`, multiple_choice: `question`, `mc1_targets {choices, labels}`.
    TruthfulQaMc1,
    /// The same with `mc2_targets`.
    TruthfulQaMc2,
}

impl ChoiceLayout {
    /// How lm-eval chooses examples.
    pub fn fewshot_rule(self) -> FewshotRule {
        if self == Self::Mmlu { FewshotRule::First } else { FewshotRule::Drawn }
    }

    /// Figures that lm-eval reports.
    pub fn figures(self) -> &'static [&'static str] {
        match self {
            Self::Arc | Self::HellaSwag => &["acc", "acc_norm"],
            _ => &["acc"],
        }
    }

    /// Whether lm-eval puts examples before the questions at all: TruthfulQA has its own, the same for all.
    pub fn takes_examples(self) -> bool {
        !matches!(self, Self::TruthfulQaMc1 | Self::TruthfulQaMc2)
    }
}

/// Reads the questions of a file. `prefix` goes before each question: TruthfulQA's examples.
///
/// # Errors
/// A file that does not read, a row of another layout.
pub fn read(layout: ChoiceLayout, path: &Path, prefix: &str) -> Result<Vec<ChoiceQuestion>, RecordError> {
    let rows = read_table(path)?;
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let read = |(number, row): (usize, &DataRow)| {
        let question = match layout {
            ChoiceLayout::Arc => arc(row),
            ChoiceLayout::HellaSwag => hellaswag(row),
            ChoiceLayout::WinoGrande => winogrande(row),
            ChoiceLayout::Mmlu => mmlu(row, &stem),
            ChoiceLayout::TruthfulQaMc1 => truthfulqa(row, "mc1_targets", prefix),
            ChoiceLayout::TruthfulQaMc2 => truthfulqa(row, "mc2_targets", prefix),
        };
        let problem = |problem| RecordError::Field { path: path.to_path_buf(), row: number, problem };
        let question = question.and_then(checked).map_err(problem)?;
        Ok(ChoiceQuestion { id: own_id(row).unwrap_or_else(|| number.to_string()), ..question })
    };
    rows.iter().enumerate().map(read).collect()
}

/// HellaSwag's `ind` and a row's `id`; others are numbered.
fn own_id(row: &DataRow) -> Option<String> {
    match row.get("id").or_else(|| row.get("ind"))? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// That there is a choice, that each has characters, and that the right one is among them.
fn checked(question: ChoiceQuestion) -> Result<ChoiceQuestion, FieldProblem> {
    let count = question.choices.len();
    if count == 0 {
        return Err(FieldProblem::new("choices", "one choice or more", "none"));
    }
    if let Some(empty) = question.choices.iter().position(String::is_empty) {
        return Err(FieldProblem::new(format!("choices[{empty}]"), "a text", "\"\""));
    }
    let is_there = match &question.correct {
        Correct::One(right) => *right < count,
        Correct::Each(truths) => truths.len() == count,
    };
    if is_there {
        return Ok(question);
    }
    Err(FieldProblem::new(
        "the right choice",
        format!("one of {count} choices"),
        format!("{:?}", question.correct),
    ))
}

fn plain(text: String, choices: Vec<String>, correct: Correct) -> ChoiceQuestion {
    ChoiceQuestion {
        id: String::new(),
        category: None,
        description: String::new(),
        texts: vec![text],
        endings: choices.clone(),
        choices,
        correct,
    }
}

fn arc(row: &DataRow) -> Result<ChoiceQuestion, FieldProblem> {
    let choices = fields::object(row, "choices")?;
    let (texts, labels) = (fields::texts(choices, "text")?, fields::texts(choices, "label")?);
    let key = fields::text(row, "answerKey")?;
    let right = labels.iter().position(|label| label == key);
    let right = right.ok_or_else(|| {
        FieldProblem::new("answerKey", format!("one of {}", labels.join(", ")), format!("{key:?}"))
    })?;
    Ok(plain(format!("Question: {}\nAnswer:", fields::text(row, "question")?), texts, Correct::One(right)))
}

fn hellaswag(row: &DataRow) -> Result<ChoiceQuestion, FieldProblem> {
    let text = |name| fields::text(row, name);
    let query = format!("{}: {} {}", text("activity_label")?, text("ctx_a")?, capitalized(text("ctx_b")?));
    let endings = fields::texts(row, "endings")?.iter().map(|ending| without_markup(ending)).collect();
    Ok(plain(without_markup(&query), endings, Correct::One(fields::index(row, "label")?)))
}

/// Python's `str.capitalize`: the first letter large, the others small.
fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &characters.as_str().to_lowercase()
}

/// A text without what WikiHow's pages leave in it: headings become sentences, brackets go.
fn without_markup(text: &str) -> String {
    let text = text.trim().replace(" [title]", ". ");
    let text = match Regex::new(r"\[.*?\]") {
        Ok(brackets) => pattern::replace_all(&brackets, &text, |_| String::new()),
        Err(_) => text,
    };
    text.replace("  ", " ")
}

fn winogrande(row: &DataRow) -> Result<ChoiceQuestion, FieldProblem> {
    let text = |name| fields::text(row, name);
    let sentence = text("sentence")?;
    let Some((before, after)) = sentence.split_once('_') else {
        return Err(FieldProblem::new("sentence", "a sentence with a gap, _", format!("{sentence:?}")));
    };
    let right = match fields::text_or_integer(row, "answer")?.as_str() {
        "1" => 0,
        "2" => 1,
        other => return Err(FieldProblem::new("answer", "1 or 2", format!("{other:?}"))),
    };
    let choices: Vec<String> =
        [text("option1")?, text("option2")?].map(|option| format!("{before}{option}")).to_vec();
    let endings = vec![after.trim().to_owned()];
    Ok(ChoiceQuestion {
        texts: choices.clone(),
        endings,
        ..plain(String::new(), choices, Correct::One(right))
    })
}

fn mmlu(row: &DataRow, file: &str) -> Result<ChoiceQuestion, FieldProblem> {
    const LETTERS: [&str; 4] = ["A", "B", "C", "D"];
    let (choices, right) = if row.contains_key("A") {
        let choices = LETTERS.map(|letter| fields::text(row, letter).map(str::to_owned));
        let choices = choices.into_iter().collect::<Result<Vec<_>, _>>()?;
        let answer = fields::text(row, "answer")?.trim();
        let right = LETTERS.iter().position(|letter| *letter == answer);
        (choices, right.ok_or_else(|| FieldProblem::new("answer", "A, B, C or D", format!("{answer:?}")))?)
    } else {
        (fields::texts(row, "choices")?, fields::index(row, "answer")?)
    };
    if choices.len() != LETTERS.len() {
        return Err(FieldProblem::new("choices", "four choices", choices.len()));
    }
    // A file of MMLU's own is one subject: high_school_physics_test.csv.
    let subject = match row.get("subject").and_then(Value::as_str) {
        Some(subject) => subject.to_owned(),
        None => ["_test", "_dev", "_val"]
            .iter()
            .find_map(|part| file.strip_suffix(part))
            .unwrap_or(file)
            .to_owned(),
    };
    let mut text = fields::text(row, "question")?.trim().to_owned();
    for (letter, choice) in LETTERS.iter().zip(&choices) {
        text.push_str(&format!("\n{letter}. {choice}"));
    }
    text.push_str("\nAnswer:");
    let description = format!(
        "The following are multiple choice questions (with answers) about {}.\n\n",
        subject.replace('_', " ")
    );
    let letters = LETTERS.map(str::to_owned).to_vec();
    Ok(ChoiceQuestion { category: Some(subject), description, ..plain(text, letters, Correct::One(right)) })
}

fn truthfulqa(row: &DataRow, targets: &str, prefix: &str) -> Result<ChoiceQuestion, FieldProblem> {
    let found = fields::object(row, targets)?;
    let choices = fields::texts(found, "choices")?;
    let expected = "a list of 0 and 1";
    let labels = found.get("labels").and_then(Value::as_array);
    let labels =
        labels.and_then(|labels| labels.iter().map(fields::index_of).collect::<Option<Vec<usize>>>());
    let labels =
        labels.ok_or_else(|| FieldProblem::new(format!("{targets}.labels"), expected, "another value"))?;
    let correct = if targets == "mc1_targets" {
        let right = labels.iter().position(|label| *label == 1);
        Correct::One(right.ok_or_else(|| FieldProblem::new(format!("{targets}.labels"), "one 1", "none"))?)
    } else {
        if !labels.contains(&1) {
            return Err(FieldProblem::new(format!("{targets}.labels"), "one 1 or more", "none"));
        }
        Correct::Each(labels.iter().map(|label| *label == 1).collect())
    };
    Ok(plain(format!("{prefix}Q: {}\nA:", fields::text(row, "question")?), choices, correct))
}
