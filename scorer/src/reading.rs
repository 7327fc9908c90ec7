//! The keys of `[score]` that every model with a decoder has: how it reads conversations.

use std::path::PathBuf;

use candle_core::{DType, Device};
use schemars::JsonSchema;
use selfplay_model::{LoadOptions, LoadPurpose, Quantization};
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// The precision that the backbone computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    pub fn tensor_dtype(self) -> Option<DType> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(DType::F32),
            Self::Bf16 => Some(DType::BF16),
            Self::F16 => Some(DType::F16),
        }
    }
}

/// How a model's maps are quantised when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QuantizeForm {
    /// bitsandbytes' NF4, double quantised.
    Nf4,
}

impl QuantizeForm {
    /// What the loader calls it.
    pub fn quantization(self) -> Quantization {
        match self {
            Self::Nf4 => Quantization::Nf4,
        }
    }
}

/// How a decoder reads conversations.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadingSettings {
    /// Precision of the backbone; heads and scores are f32 and f64 whatever it is.
    pub dtype: ScoreDType,
    /// Whether the backbone's maps are quantised.
    pub quantize: Option<QuantizeForm>,
    /// Tokens of prompt and response together; longer conversations are cut from the right.
    pub max_length: usize,
    /// Tokens per forward pass; a conversation longer than that has a pass of its own.
    pub batch_tokens: usize,
    /// A Jinja file, for a preference model whose folder has no chat template.
    pub chat_template: Option<PathBuf>,
    /// What the model is loaded for.
    pub purpose: LoadPurpose,
}

impl Default for ReadingSettings {
    fn default() -> Self {
        Self {
            dtype: ScoreDType::Auto,
            quantize: None,
            max_length: 4096,
            batch_tokens: 16_384,
            chat_template: None,
            purpose: LoadPurpose::Compute,
        }
    }
}

impl ReadingSettings {
    /// How the model is loaded, with its preference heads or as a language model.
    pub(crate) fn load_options(&self, device: &Device, heads: bool) -> LoadOptions {
        LoadOptions {
            device: device.clone(),
            dtype: self.dtype.tensor_dtype(),
            heads,
            quantize: self.quantize.map(QuantizeForm::quantization),
            purpose: self.purpose,
            share: None,
        }
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub(crate) fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        if self.max_length < 2 {
            problems.value("max_length", self.max_length, "2 tokens or more");
        }
        if self.batch_tokens == 0 {
            problems.value("batch_tokens", self.batch_tokens, "1 token or more");
        }
        problems
    }
}
