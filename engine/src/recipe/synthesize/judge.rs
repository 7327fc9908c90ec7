//! `[synthesize.judge]`: a model that scores what is made.

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use super::generator::GeneratorSection;

/// `[synthesize.judge]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JudgeSection {
    /// The model.
    #[serde(flatten)]
    pub model: GeneratorSection,
    /// The least score, from 1 to 10, of an instruction's answer and of a pair's chosen one.
    #[schemars(range(min = 1, max = 10))]
    pub min_score: f64,
    /// Pairs: how much higher than the rejected answer's the chosen one's score is at least.
    #[schemars(range(min = 0, max = 9))]
    pub min_margin: f64,
}

impl Default for JudgeSection {
    fn default() -> Self {
        Self { model: GeneratorSection::default(), min_score: 6.0, min_margin: 1.0 }
    }
}

impl JudgeSection {
    /// The model with a judge's defaults: its likeliest verdict, which is short.
    pub fn model(&self) -> GeneratorSection {
        GeneratorSection {
            temperature: self.model.temperature.or(Some(0.0)),
            max_new_tokens: self.model.max_new_tokens.or(Some(256)),
            ..self.model.clone()
        }
    }

    /// Every wrong value but its model's, without the section's name.
    pub(super) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut wrong = |key: &str, value: f64, least: f64, most: f64| {
            if !(least..=most).contains(&value) {
                problems.value(key, value, format!("from {least} to {most}"));
            }
        };
        wrong("min_score", self.min_score, 1.0, 10.0);
        wrong("min_margin", self.min_margin, 0.0, 9.0);
        problems
    }
}
