//! A judge's annotations in AlpacaEval's file form.

use std::path::Path;

use selfplay_records::{FieldProblem, RecordError, read_columns};
use serde_json::{Map, Value};

/// One model's answers against one baseline's, judged instruction by instruction. At least one row has a preference.
#[derive(Clone, Debug)]
pub struct Annotations {
    baseline: String,
    model: String,
    /// P(model wins) in \[0, 1]; `None` where the judge gave no verdict.
    preferences: Vec<Option<f64>>,
    /// Characters of the baseline's answer and of the model's.
    lengths: Vec<(usize, usize)>,
}

impl Annotations {
    /// Reads rows with `output_1`, `output_2`, `generator_1`, `generator_2` and `preference` (1: the baseline wins, 2: the
    /// model; 0 is a draw; null is no verdict) from a JSON array or JSON Lines, gzipped or not, or Parquet.
    ///
    /// # Errors
    /// A file that does not read; a field that is missing or of another type; a preference outside of 1 to 2; two models or
    /// two baselines in one file; no preference at all.
    pub fn read(path: &Path) -> Result<Self, RecordError> {
        let fields = ["output_1", "output_2", "generator_1", "generator_2", "preference"];
        let rows = read_columns(path, &fields)?;
        let at = |row: usize| move |problem| RecordError::Field { path: path.to_path_buf(), row, problem };
        let first = rows.first().map(generators).transpose().map_err(at(0))?;
        let (baseline, model) = first.unwrap_or_default();
        let mut read = Self { baseline, model, preferences: Vec::new(), lengths: Vec::new() };
        for (number, row) in rows.iter().enumerate() {
            read.push(row).map_err(at(number))?;
        }
        if read.preferences.iter().all(Option::is_none) {
            let problem =
                FieldProblem::new("preference", "a number from 1 to 2 in at least one row", "null in all");
            return Err(at(0)(problem));
        }
        Ok(read)
    }

    /// Judgements that are in memory: P(model wins) of each row, with the characters of the baseline's answer and of the model's.
    pub(super) fn of(preferences: &[f64], lengths: &[(usize, usize)]) -> Self {
        Self {
            baseline: "baseline".to_owned(),
            model: "model".to_owned(),
            preferences: preferences.iter().copied().map(Some).collect(),
            lengths: lengths.to_vec(),
        }
    }

    fn push(&mut self, row: &Map<String, Value>) -> Result<(), FieldProblem> {
        let (baseline, model) = generators(row)?;
        let one = |field, first: &str, found: &str| {
            if first == found {
                return Ok(());
            }
            let expected = format!("{first:?} as in the first row (a file has one baseline and one model)");
            Err(FieldProblem::new(field, expected, format!("{found:?}")))
        };
        one("generator_1", &self.baseline, &baseline)?;
        one("generator_2", &self.model, &model)?;
        let characters = |field| text(row, field).map(|text| text.chars().count());
        self.lengths.push((characters("output_1")?, characters("output_2")?));
        self.preferences.push(preference(row)?);
        Ok(())
    }

    /// `generator_1`.
    pub fn baseline(&self) -> &str {
        &self.baseline
    }

    /// `generator_2`.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the model is the baseline itself.
    pub fn is_baseline(&self) -> bool {
        self.baseline == self.model
    }

    /// P(model wins) by row, in the file's order.
    pub fn preferences(&self) -> &[Option<f64>] {
        &self.preferences
    }

    /// Characters of the baseline's answer less those of the model's, by row.
    pub(super) fn length_differences(&self) -> Vec<f64> {
        self.lengths.iter().map(|&(baseline, model)| baseline as f64 - model as f64).collect()
    }

    /// Mean characters of the model's answers.
    pub(super) fn mean_length(&self) -> f64 {
        let total: usize = self.lengths.iter().map(|&(_, model)| model).sum();
        total as f64 / self.lengths.len() as f64
    }
}

fn generators(row: &Map<String, Value>) -> Result<(String, String), FieldProblem> {
    Ok((text(row, "generator_1")?.to_owned(), text(row, "generator_2")?.to_owned()))
}

fn text<'r>(row: &'r Map<String, Value>, field: &str) -> Result<&'r str, FieldProblem> {
    let expected = "a text, as in AlpacaEval's annotations.json";
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(FieldProblem::new(field, expected, other)),
        None => Err(FieldProblem::new(field, expected, "nothing")),
    }
}

fn preference(row: &Map<String, Value>) -> Result<Option<f64>, FieldProblem> {
    let wrong = |found: &dyn std::fmt::Display| {
        FieldProblem::new("preference", "a number from 1 to 2, 0 or null", found)
    };
    match row.get("preference") {
        None => Err(wrong(&"nothing")),
        Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(0.0) => Ok(Some(0.5)),
            Some(number) if (1.0..=2.0).contains(&number) => Ok(Some(number - 1.0)),
            _ => Err(wrong(value)),
        },
    }
}
