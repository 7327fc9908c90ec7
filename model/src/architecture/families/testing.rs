//! What the families' tests have in common.

use std::path::Path;

use serde_json::{Value, json};

use crate::architecture::Architecture;
use crate::error::ModelError;

/// A small configuration of this `model_type` with other keys besides; a key of `null` is written as null.
pub(crate) fn config(model_type: &str, keys: Value) -> Value {
    let mut config = json!({
        "model_type": model_type, "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    });
    config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    config
}

pub(crate) fn try_read(model_type: &str, keys: Value) -> Result<Architecture, ModelError> {
    Architecture::from_json(&config(model_type, keys), Path::new("m/config.json"))
}

pub(crate) fn read(model_type: &str, keys: Value) -> Architecture {
    try_read(model_type, keys).unwrap()
}

/// The names of a layer's tensors without `model.layers.N.`, in their order.
pub(crate) fn layer_names(architecture: &Architecture, layer: usize) -> Vec<String> {
    let prefix = format!("model.layers.{layer}.");
    let names = architecture.tensors().into_iter().map(|spec| spec.name);
    names.filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect()
}

/// Writes the architecture as config.json, reads that, and wants the same again; gives what was written.
pub(crate) fn round_trip(architecture: &Architecture) -> Value {
    let written = architecture.to_json();
    let again = Architecture::from_json(&written, Path::new("config.json")).unwrap();
    assert!((again.attention_scale - architecture.attention_scale).abs() < 1e-12);
    // The number format comes from the writer of the weights.
    let stored_dtype = architecture.stored_dtype;
    assert_eq!(
        Architecture { attention_scale: architecture.attention_scale, stored_dtype, ..again },
        *architecture
    );
    written
}
