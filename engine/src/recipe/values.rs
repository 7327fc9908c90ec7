//! Values of keys that are one of a few words.

use schemars::JsonSchema;
use selfplay_records::OnBadPrompt;
use serde::{Deserialize, Serialize};

/// What weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WeightDType {
    /// 32 bits.
    F32,
    /// 16 bits, eight of them exponent.
    Bf16,
}

impl WeightDType {
    /// The matching `candle_core::DType`.
    pub fn to_candle(self) -> candle_core::DType {
        match self {
            Self::F32 => candle_core::DType::F32,
            Self::Bf16 => candle_core::DType::BF16,
        }
    }
}

/// What a prompt row that can't be used does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadPromptRule {
    /// Stops the run, naming the row.
    #[default]
    Error,
    /// Is left out and counted.
    Skip,
}

impl OnBadPromptRule {
    /// The matching rule of the reader of prompts.
    pub fn to_records(self) -> OnBadPrompt {
        match self {
            Self::Error => OnBadPrompt::Error,
            Self::Skip => OnBadPrompt::Skip,
        }
    }
}
