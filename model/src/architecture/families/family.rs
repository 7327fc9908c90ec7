//! What a family of decoders consists of.

use std::fmt;

use serde_json::{Map, Value};

use crate::architecture::Architecture;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layout::Modules;
use crate::error::ModelError;

/// A family of decoders: the models of one `model_type`. What its members have in common with all others is read and
/// written by `config.rs`; here is what differs. The table of all families: [`Family::ALL`].
pub struct Family {
    /// The `model_type` of config.json.
    pub(super) model_type: &'static str,
    /// The `model_type` of multimodal models whose `text_config` is of this family.
    pub(super) multimodal: Option<&'static str>,
    /// The one of `architectures` in config.json.
    pub(super) class: &'static str,
    /// What transformers' configuration class assumes of absent keys, and how it names some.
    pub(super) defaults: Defaults,
    /// Completes an architecture by the family's own keys and constants.
    pub(super) read: fn(&Fields, &mut Architecture) -> Result<(), ModelError>,
    /// Adds the family's own keys to a config.json.
    pub(super) write: fn(&Architecture, &mut Map<String, Value>),
    /// How the weights are stored.
    pub(super) modules: fn(&Architecture) -> Modules,
    /// Keys that make a small configuration use all that the family can have; windows, where it has some, are of this
    /// many tokens.
    pub(super) exercise: fn(usize) -> Value,
}

impl Family {
    /// The `model_type` of config.json.
    pub fn model_type(&self) -> &'static str {
        self.model_type
    }

    /// Keys that make a small configuration use all that the family can have: every bias, soft caps, windows of `window`
    /// tokens. For tests and for the comparison of devices.
    pub fn exercise(&self, window: usize) -> Value {
        (self.exercise)(window)
    }

    pub(in crate::architecture) fn class(&self) -> &'static str {
        self.class
    }

    pub(in crate::architecture) fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    pub(in crate::architecture) fn read(
        &self,
        fields: &Fields,
        architecture: &mut Architecture,
    ) -> Result<(), ModelError> {
        (self.read)(fields, architecture)
    }

    pub(in crate::architecture) fn write(
        &self,
        architecture: &Architecture,
        config: &mut Map<String, Value>,
    ) {
        (self.write)(architecture, config);
    }

    pub(in crate::architecture) fn modules(&self, architecture: &Architecture) -> Modules {
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
