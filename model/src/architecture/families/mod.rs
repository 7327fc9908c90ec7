//! The families of decoders that this crate computes, one file each: config.json → [`Architecture`], [`Architecture`] →
//! config.json, and the names and shapes of the stored weights. A new family is a file here and a line in [`Family::ALL`].

mod gemma;
mod gemma3;
mod llama;
mod mistral;
mod olmo;
mod phi;
mod qwen;
mod smollm;

use std::fmt;

use serde_json::{Map, Value};

use super::Architecture;
use super::config::Defaults;
use super::fields::Fields;
use super::layout::Modules;
use crate::error::ModelError;

/// A family of decoders: the models of one `model_type`. What its members have in common with all others is read and
/// written by `config.rs`; here is what differs.
pub struct Family {
    /// The `model_type` of config.json.
    model_type: &'static str,
    /// The `model_type` of multimodal models whose `text_config` is of this family.
    multimodal: Option<&'static str>,
    /// The one of `architectures` in config.json.
    class: &'static str,
    /// What transformers' configuration class assumes of absent keys, and how it names some.
    defaults: Defaults,
    /// Completes an architecture by the family's own keys and constants.
    read: fn(&Fields, &mut Architecture) -> Result<(), ModelError>,
    /// Adds the family's own keys to a config.json.
    write: fn(&Architecture, &mut Map<String, Value>),
    /// How the weights are stored.
    modules: fn(&Architecture) -> Modules,
    /// Keys that make a small configuration use all that the family can have; windows, where it has some, are of this
    /// many tokens.
    exercise: fn(usize) -> Value,
}

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

    /// The `model_type` of config.json.
    pub fn model_type(&self) -> &'static str {
        self.model_type
    }

    /// Keys that make a small configuration use all that the family can have: every bias, soft caps, windows of `window`
    /// tokens. For tests and for the comparison of devices.
    pub fn exercise(&self, window: usize) -> Value {
        (self.exercise)(window)
    }

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

    pub(super) fn class(&self) -> &'static str {
        self.class
    }

    pub(super) fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    pub(super) fn read(&self, fields: &Fields, architecture: &mut Architecture) -> Result<(), ModelError> {
        (self.read)(fields, architecture)
    }

    pub(super) fn write(&self, architecture: &Architecture, config: &mut Map<String, Value>) {
        (self.write)(architecture, config);
    }

    pub(super) fn modules(&self, architecture: &Architecture) -> Modules {
        (self.modules)(architecture)
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

/// A family is its `model_type`.
impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

impl Eq for Family {}

impl fmt::Debug for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.model_type)
    }
}

#[cfg(test)]
mod layout_tests;
#[cfg(test)]
mod testing;
