//! Preferences: how the preference model compares the candidates of one prompt.

use serde::{Deserialize, Serialize};

use crate::row::{self, Columns};
use crate::{ColumnSpec, ColumnType, FieldProblem, Row};

/// How the preference model compares the K candidates of one prompt.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// The prompt that the candidates answer.
    #[serde(deserialize_with = "crate::prompt::id")]
    pub prompt_id: String,
    /// `scores[i][j]` = s(y_i ≻ y_j), \[K]\[K], antisymmetric.
    pub scores: Vec<Vec<f64>>,
    /// σ(scores), \[K]\[K].
    pub probabilities: Vec<Vec<f64>>,
    /// Row means of `scores`, the self term 0 included.
    pub mean_scores: Vec<f64>,
    /// Row means of `probabilities`, the self term ½ included.
    pub mean_probabilities: Vec<f64>,
    /// [`crate::Candidates::digest`] of the candidates that were compared; absent in files of older versions and of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidates_digest: Option<String>,
    /// \[K]\[d], on `score.embeddings = true`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<Vec<Vec<f32>>>,
    /// \[K], on `score.advantages = "per-axis"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantages: Option<Vec<f64>>,
    /// \[K]\[axes], the summands of `advantages`: each axis normalised over the group, weighed by its λ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis_advantages: Option<Vec<Vec<f64>>>,
    /// \[K]\[axes]: λ times how far the axis's reward is from the group's mean, not divided by the spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis_rewards: Option<Vec<Vec<f64>>>,
}

impl Row for Preference {
    const NOUN: &'static str = "preferences";
    const MOST_BYTES: usize = crate::limits::OWN_ROW_BYTES;

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        let square = || row::number().list().list();
        Columns::of(rows)
            .always("prompt_id", row::text())
            .always("scores", square())
            .always("probabilities", square())
            .always("mean_scores", row::number().list())
            .always("mean_probabilities", row::number().list())
            .where_some("candidates_digest", row::text(), |row| row.candidates_digest.is_some())
            .where_some("embeddings", ColumnType::Float32.list().list(), |row| row.embeddings.is_some())
            .where_some("advantages", row::number().list(), |row| row.advantages.is_some())
            .where_some("axis_advantages", square(), |row| row.axis_advantages.is_some())
            .where_some("axis_rewards", square(), |row| row.axis_rewards.is_some())
            .schema()
    }

    fn identity(&self) -> Option<&str> {
        Some(&self.prompt_id)
    }

    fn check(&self) -> Result<(), FieldProblem> {
        if self.prompt_id.is_empty() {
            return Err(FieldProblem::new("prompt_id", "the id of a prompt", "none"));
        }
        let k = self.scores.len();
        for (name, square) in [("scores", &self.scores), ("probabilities", &self.probabilities)] {
            if square.len() != k {
                return Err(FieldProblem::new(name, format!("{k} rows as in \"scores\""), square.len()));
            }
            for (index, line) in square.iter().enumerate() {
                numbers(&format!("{name}[{index}]"), line, k)?;
            }
        }
        numbers("mean_scores", &self.mean_scores, k)?;
        numbers("mean_probabilities", &self.mean_probabilities, k)?;
        if let Some(advantages) = &self.advantages {
            numbers("advantages", advantages, k)?;
        }
        for (name, by_axis) in
            [("axis_advantages", &self.axis_advantages), ("axis_rewards", &self.axis_rewards)]
        {
            let Some(by_axis) = by_axis else { continue };
            if by_axis.len() != k {
                return Err(FieldProblem::new(name, format!("{k} rows as in \"scores\""), by_axis.len()));
            }
            let axes = by_axis.first().map_or(0, Vec::len);
            for (index, line) in by_axis.iter().enumerate() {
                numbers(&format!("{name}[{index}]"), line, axes)?;
            }
        }
        match &self.embeddings {
            Some(rows) if rows.len() != k => {
                Err(FieldProblem::new("embeddings", format!("{k} rows as in \"scores\""), rows.len()))
            }
            _ => Ok(()),
        }
    }
}

/// `k` numbers, all finite: JSON could not hold others.
fn numbers(field: &str, values: &[f64], k: usize) -> Result<(), FieldProblem> {
    if values.len() != k {
        return Err(FieldProblem::new(field, format!("{k} numbers"), values.len()));
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(FieldProblem::new(format!("{field}[{at}]"), "a finite number", values[at])),
        None => Ok(()),
    }
}
