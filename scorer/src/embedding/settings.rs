//! The keys of `[score]` that models with embeddings have.

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

use crate::ReadingSettings;

/// How a conversation becomes tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tokenization {
    /// `authors` for a head that is stored as `value_head.weight`, `one-bos` for every other.
    #[default]
    Auto,
    /// As the authors of GPM publish it: the tokenizer's special tokens on top of the template's, the last token overwritten by the
    /// end token.
    Authors,
    /// As sequence classifiers are trained: the template's text with one BOS, nothing overwritten.
    OneBos,
}

/// Which advantages preference rows carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Advantages {
    /// None.
    #[default]
    Off,
    /// Of a gpm: each of its axes normalised over the group, weighted by the prompt gate (GPRL, arXiv 2605.18721).
    PerAxis,
}

/// How a GPM or a Bradley-Terry model is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddingSettings {
    /// How conversations are read.
    pub reading: ReadingSettings,
    /// Divides every score; absent: 0.1 for gpm, 1 for bradley-terry.
    pub tau: Option<f64>,
    /// Whether preference rows carry the embeddings.
    pub embeddings: bool,
    /// How conversations become tokens.
    pub tokenization: Tokenization,
    /// Which advantages preference rows carry.
    pub advantages: Advantages,
    /// λ of DSPPO's schedule over iterations, of an HRC model; absent: both parts as they are.
    pub dsppo_lambda: Option<f64>,
    /// The iteration that the schedule is at, from 1; 0 is as 1.
    pub iteration: usize,
}

impl EmbeddingSettings {
    /// Every wrong value, without the section's name; empty when all is well.
    pub(crate) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        if let Some(tau) = self.tau
            && !(tau.is_finite() && tau > 0.0)
        {
            problems.value("tau", tau, "a positive number");
        }
        if let Some(lambda) = self.dsppo_lambda
            && !(0.0..=1.0).contains(&lambda)
        {
            problems.value(
                "dsppo_lambda",
                lambda,
                "a number from 0 to 1: above 1 the cyclic part would turn round",
            );
        }
        problems.extend(self.reading.validate());
        problems
    }
}
