//! AlpacaEval's files: instructions with a baseline's outputs, a model's outputs, a judge's annotations. The figures are
//! [`crate::winrate`]'s.

use std::path::Path;

use selfplay_records::{FieldProblem, RecordError};
use serde::{Deserialize, Serialize};

use super::data_row::DataRow;
use super::fields;
use super::table_file::read_table;

/// An output of a model: a row of `model_outputs.json`, and of the evaluation set, whose outputs are the baseline's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOutput {
    /// What was asked.
    pub instruction: String,
    /// The answer.
    pub output: String,
    /// Who answered.
    pub generator: String,
    /// The source of the instruction.
    pub dataset: String,
}

/// A judge's comparison: a row of `annotations.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Annotation {
    /// What was asked.
    pub instruction: String,
    /// The baseline's answer.
    pub output_1: String,
    /// The baseline.
    pub generator_1: String,
    /// The source of the instruction.
    pub dataset: String,
    /// The model's answer.
    pub output_2: String,
    /// The model.
    pub generator_2: String,
    /// The judge.
    pub annotator: String,
    /// 1 + P(the model's answer is better).
    pub preference: f64,
}

/// Reads `instruction`, `output`, `generator`, and `dataset` where there is one.
///
/// # Errors
/// A file that does not read, a row without one of them.
pub fn read_outputs(path: &Path) -> Result<Vec<ModelOutput>, RecordError> {
    let rows = read_table(path)?;
    let output = |row: &DataRow| -> Result<ModelOutput, FieldProblem> {
        let text = |name| fields::text(row, name).map(str::to_owned);
        Ok(ModelOutput {
            instruction: text("instruction")?,
            output: text("output")?,
            generator: text("generator")?,
            dataset: text("dataset").unwrap_or_default(),
        })
    };
    let read = |(number, row): (usize, &DataRow)| {
        output(row).map_err(|problem| RecordError::Field { path: path.to_path_buf(), row: number, problem })
    };
    rows.iter().enumerate().map(read).collect()
}

impl Annotation {
    /// The comparison of a model's output with the baseline's; `win` is P(the model's is better).
    pub fn new(baseline: &ModelOutput, model: &ModelOutput, annotator: &str, win: f64) -> Self {
        Self {
            instruction: baseline.instruction.clone(),
            output_1: baseline.output.clone(),
            generator_1: baseline.generator.clone(),
            dataset: baseline.dataset.clone(),
            output_2: model.output.clone(),
            generator_2: model.generator.clone(),
            annotator: annotator.to_owned(),
            preference: 1.0 + win.clamp(0.0, 1.0),
        }
    }
}
