//! `[log]`: where else a run's numbers go, beside its own folder. No result depends on it.

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSection {
    /// Writes TensorBoard's event files beside each metrics.jsonl and in the run folder.
    pub tensorboard: bool,
    /// Sends steps and iterations to the MLflow server of MLFLOW_TRACKING_URI; MLFLOW_TRACKING_TOKEN is its token.
    pub mlflow: bool,
    /// Writes an offline run of Weights & Biases in the run folder, for `wandb sync`. Nothing is sent.
    pub wandb: bool,
    /// MLflow's experiment and W&B's project.
    #[schemars(length(min = 1))]
    pub project: String,
}

/// The project of a recipe that names none.
const PROJECT: &str = "selfplay";

impl Default for LogSection {
    fn default() -> Self {
        Self { tensorboard: false, mlflow: false, wandb: false, project: PROJECT.to_owned() }
    }
}

impl LogSection {
    /// Whether nothing is asked for: `recipe.toml` is then as without the section.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let is_name = !self.project.is_empty()
            && self.project.len() <= 128
            && self.project.chars().all(|one| one.is_alphanumeric() || matches!(one, '-' | '_' | '.' | ' '));
        let want = "a name of at most 128 letters, digits, spaces, points, - and _";
        problems.refuse(!is_name, "project", format!("{:?}", self.project), want);
        problems
    }
}
