//! The `[score]` section: which preference model compares the candidates, and how.
//!
//! Keys and defaults are the contract's; added to it: `chat_template`, for a model folder that has none.

use std::fmt;
use std::path::PathBuf;

use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// The kind of preference model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceKind {
    /// From the value head's rows: 1 → Bradley-Terry, an even number → GPM, any other → an input error.
    #[default]
    Auto,
    /// General preference representation model.
    Gpm,
    /// A reward per response, s = r_i − r_j.
    BradleyTerry,
    /// PairRM's cross-encoder; not available yet.
    PairRanker,
    /// A language model asked for A or B; not available yet.
    PairLm,
    /// A foreign model as judge; not available yet.
    Judge,
}

impl PreferenceKind {
    /// The name that a recipe uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpm => "gpm",
            Self::BradleyTerry => "bradley-terry",
            Self::PairRanker => "pair-ranker",
            Self::PairLm => "pair-lm",
            Self::Judge => "judge",
        }
    }

    /// Whether this version can run it.
    pub fn is_available(self) -> bool {
        matches!(self, Self::Auto | Self::Gpm | Self::BradleyTerry)
    }

    /// τ where the recipe gives none; `None` for kinds that have no τ or are not yet resolved.
    pub fn default_tau(self) -> Option<f64> {
        match self {
            Self::Gpm => Some(0.1),
            Self::BradleyTerry => Some(1.0),
            Self::Auto | Self::PairRanker | Self::PairLm | Self::Judge => None,
        }
    }
}

impl fmt::Display for PreferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which number a preference row stores as s(i ≻ j).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreDifference {
    /// The paper's s.
    #[default]
    Paper,
    /// table\[i]\[j] − table\[j]\[i] as the reference pipeline stores it: 2s for an antisymmetric table.
    Reference,
}

impl ScoreDifference {
    /// What s is multiplied by.
    pub fn factor(self) -> f64 {
        match self {
            Self::Paper => 1.0,
            Self::Reference => 2.0,
        }
    }
}

/// The precision that the backbone computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreDType {
    /// f32 on CPU, as stored on CUDA.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
}

impl ScoreDType {
    /// The tensor type; `None` leaves the choice to the model loader.
    pub fn tensor_dtype(self) -> Option<candle_core::DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(candle_core::DType::F32),
            Self::Bf16 => Some(candle_core::DType::BF16),
            Self::F16 => Some(candle_core::DType::F16),
        }
    }
}

/// The keys of `[score]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoreSettings {
    /// Which kind of preference model `model` is.
    pub kind: PreferenceKind,
    /// A folder or a hub id; the stage command takes it from its `--preference-model` flag instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Divides every score; absent: 0.1 for gpm, 1 for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tau: Option<f64>,
    /// Precision of the backbone; heads and scores are f32 and f64 whatever it is.
    pub dtype: ScoreDType,
    /// Tokens of prompt and response together; longer conversations are cut from the right.
    pub max_length: usize,
    /// Tokens per forward pass; a conversation longer than that has a pass of its own.
    pub batch_tokens: usize,
    /// Whether preference rows carry the embeddings.
    pub embeddings: bool,
    /// Whether s is stored as the paper defines it or as the reference pipeline stores it.
    pub score_difference: ScoreDifference,
    /// A Jinja file, for a preference model whose folder has no chat template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
}

impl Default for ScoreSettings {
    fn default() -> Self {
        Self {
            kind: PreferenceKind::Auto,
            model: None,
            tau: None,
            dtype: ScoreDType::Auto,
            max_length: 4096,
            batch_tokens: 16_384,
            embeddings: false,
            score_difference: ScoreDifference::Paper,
            chat_template: None,
        }
    }
}

impl ScoreSettings {
    /// Every wrong value of this section, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut wrong = |key: &str, value: String, want: &str| problems.value(key, value, want);
        if !self.kind.is_available() {
            wrong(
                "kind",
                format!("{:?}", self.kind.name()),
                "auto, gpm or bradley-terry (not available yet: the others)",
            );
        }
        if let Some(tau) = self.tau
            && !(tau.is_finite() && tau > 0.0)
        {
            wrong("tau", tau.to_string(), "a positive number");
        }
        if self.max_length < 2 {
            wrong("max_length", self.max_length.to_string(), "2 tokens or more");
        }
        if self.batch_tokens == 0 {
            wrong("batch_tokens", self.batch_tokens.to_string(), "1 token or more");
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_contract_s() {
        let settings = ScoreSettings::default();
        assert!(settings.validate().is_empty());
        assert_eq!((settings.max_length, settings.batch_tokens), (4096, 16_384));
        assert_eq!(PreferenceKind::Gpm.default_tau(), Some(0.1));
        assert_eq!(PreferenceKind::BradleyTerry.default_tau(), Some(1.0));
        assert_eq!(settings.score_difference.factor(), 1.0);
        assert_eq!(ScoreDifference::Reference.factor(), 2.0);
    }

    #[test]
    fn every_wrong_key_is_named_at_once() {
        let settings = ScoreSettings {
            kind: PreferenceKind::Judge,
            tau: Some(f64::NAN),
            max_length: 1,
            batch_tokens: 0,
            ..ScoreSettings::default()
        };
        assert_eq!(settings.validate().keys(), ["kind", "tau", "max_length", "batch_tokens"]);
        assert_eq!(ScoreSettings { tau: Some(-0.1), ..ScoreSettings::default() }.validate().list.len(), 1);
        assert_eq!(ScoreSettings { tau: Some(0.0), ..ScoreSettings::default() }.validate().list.len(), 1);
    }
}
