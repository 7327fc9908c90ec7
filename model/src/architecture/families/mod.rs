//! The families of decoders that this crate computes, one file each: config.json → [`Architecture`](super::Architecture) and
//! back, and the names and shapes of the stored weights. What a family consists of: `family.rs`. A new family is a file here
//! and a line in [`Family::ALL`].

mod family;
mod gemma;
mod gemma3;
mod llama;
mod mistral;
mod olmo;
mod phi;
mod qwen;
mod smollm;

use serde_json::{Map, Value};

use super::fields::Fields;
use crate::error::ModelError;

pub use family::Family;

impl Family {
    /// All families, in the order error messages list them.
    pub const ALL: &'static [&'static Family] = &[
        &llama::LLAMA,
        &mistral::MISTRAL,
        &qwen::QWEN2,
        &qwen::QWEN3,
        &gemma::GEMMA,
        &gemma::GEMMA2,
        &gemma3::GEMMA3,
        &phi::PHI3,
        &olmo::OLMO2,
        &smollm::SMOLLM3,
    ];

    /// The family that config.json names, once it names one that is supported.
    pub(super) fn of(fields: &Fields) -> Result<FamilyOf, ModelError> {
        let remedy = format!("the supported model types are {}", Self::list());
        let Some(name) = fields.text("model_type")? else {
            return Err(fields.wrong("model_type", "is missing", &remedy));
        };
        if let Some(family) = Self::ALL.iter().find(|family| family.model_type == name) {
            return Ok(FamilyOf { family, text: None });
        }
        if let Some(family) = Self::ALL.iter().find(|family| family.multimodal == Some(name)) {
            let text = text_config(fields.object).ok_or_else(|| {
                let want = "a multimodal model's config.json describes its language model there";
                fields.wrong("text_config", "is not an object", want)
            })?;
            return Ok(FamilyOf { family, text: Some(text) });
        }
        Err(fields.wrong("model_type", &format!("is \"{name}\", which is not supported"), &remedy))
    }

    /// All model types, for messages.
    pub(super) fn list() -> String {
        let names =
            Self::ALL.iter().flat_map(|family| std::iter::once(family.model_type).chain(family.multimodal));
        names.collect::<Vec<_>>().join(", ")
    }
}

/// The family of a config.json.
pub(super) struct FamilyOf {
    pub(super) family: &'static Family,
    /// Of a multimodal model, its language model's configuration.
    pub(super) text: Option<Map<String, Value>>,
}

/// The configuration of a multimodal model's language model, with what stands beside it where it lacks that; `None` of any
/// other configuration.
pub(crate) fn text_config(config: &Map<String, Value>) -> Option<Map<String, Value>> {
    let name = config.get("model_type")?.as_str()?;
    Family::ALL.iter().find(|family| family.multimodal == Some(name))?;
    let mut text = config.get("text_config")?.as_object()?.clone();
    for key in ["bos_token_id", "eos_token_id", "tie_word_embeddings", "torch_dtype", "dtype"] {
        let absent = text.get(key).is_none_or(Value::is_null);
        if let Some(value) = config.get(key).filter(|_| absent) {
            text.insert(key.to_owned(), value.clone());
        }
    }
    Some(text)
}

#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod testing;
