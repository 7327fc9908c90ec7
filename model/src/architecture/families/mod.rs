//! The families of decoders that this crate computes, one file each: config.json → [`Architecture`], [`Architecture`] →
//! config.json, and the names and shapes of the stored weights. A new family is a file here and a line in [`Family::ALL`].

mod gemma;
mod llama;
mod mistral;
mod qwen;

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
    pub const ALL: &'static [&'static Family] =
        &[&llama::LLAMA, &mistral::MISTRAL, &qwen::QWEN2, &qwen::QWEN3, &gemma::GEMMA, &gemma::GEMMA2];

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
    pub(super) fn of(fields: &Fields) -> Result<&'static Self, ModelError> {
        let remedy = format!("the supported model types are {}", Self::list());
        let Some(name) = fields.text("model_type")? else {
            return Err(fields.wrong("model_type", "is missing", &remedy));
        };
        Self::ALL.iter().find(|family| family.model_type == name).copied().ok_or_else(|| {
            fields.wrong("model_type", &format!("is \"{name}\", which is not supported"), &remedy)
        })
    }

    /// All model types, for messages.
    pub(super) fn list() -> String {
        Self::ALL.iter().map(|family| family.model_type).collect::<Vec<_>>().join(", ")
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
