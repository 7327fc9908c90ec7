//! The preference heads that an adapter brings: what PEFT calls them, and what a decoder does.

use std::path::Path;

use super::names::HeldTensor;
use super::read::AdapterFile;
use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::json::read_json;
use crate::weights::HeadSpecs;

pub(super) const VALUE: &str = "value_head.weight";
pub(super) const PROMPT: &str = "prompt_head.weight";
/// Of transformers' sequence classification.
const SCORE: &str = "score.weight";
/// PEFT names both of an adapter for sequence classification, whichever of them the model has.
pub(super) const CLASSIFIERS: [&str; 2] = ["classifier", "score"];

/// The heads in the adapter of `folder`, from the header of its file. The value head is `value_head.weight`, else `score.weight`.
///
/// # Errors
/// No such file, or a damaged one; a head that is no matrix \[d, hidden]; a classifier of several classes.
pub fn heads(folder: &Path, architecture: &Architecture) -> Result<HeadSpecs, ModelError> {
    let file = AdapterFile::open(folder)?;
    let head = |name: &str| -> Result<Option<TensorSpec>, ModelError> {
        let Some(shape) = file.base_shape(name) else { return Ok(None) };
        let wrong = |want: String| {
            Err(ModelError::input(folder, format!("its tensor {name} has shape {shape:?}"), want))
        };
        match shape {
            [rows, _] if name == SCORE && *rows != 1 => wrong(
                "a score.weight must have one output (bradley-terry); a general preference model's head is value_head.weight"
                    .to_owned(),
            ),
            [rows, width] if *rows > 0 && *width == architecture.hidden_size => Ok(Some(TensorSpec {
                name: name.to_owned(),
                shape: shape.to_vec(),
                kind: ParameterKind::Matrix,
            })),
            _ => wrong(format!("a head must be [outputs, {}], as wide as the model", architecture.hidden_size)),
        }
    };
    let value_head = match head(VALUE)? {
        Some(spec) => Some(spec),
        None => head(SCORE)?,
    };
    Ok(HeadSpecs { value_head, prompt_head: head(PROMPT)? })
}

/// How many numbers the adapter in `folder` has.
///
/// # Errors
/// No such file, or a damaged one.
pub fn stored_numbers(folder: &Path) -> Result<usize, ModelError> {
    Ok(AdapterFile::open(folder)?.numbers())
}

/// What a decoder calls the head that an adapter calls `name`; `None` of what is no head. A head that the base's config.json
/// names (`value_head_prefix`) is its value head.
pub(super) fn plain_name(decoder: &Decoder, name: &str) -> Option<&'static str> {
    if decoder.parameters().find(name).is_some() {
        return None;
    }
    let is_named = |prefix: &str| name.strip_suffix(".weight") == Some(prefix);
    let prefix = || {
        let config = read_json(&decoder.source()?.join("config.json"), "").ok()?;
        Some(config["value_head_prefix"].as_str()?.to_owned())
    };
    match name {
        VALUE | SCORE => Some(VALUE),
        PROMPT => Some(PROMPT),
        _ if prefix().is_some_and(|prefix| is_named(&prefix)) => Some(VALUE),
        _ => None,
    }
}

/// Whether a tensor of an adapter is of a head.
pub(super) fn is_head(held: &HeldTensor) -> bool {
    matches!(held, HeldTensor::Base(name) if [VALUE, PROMPT, SCORE].contains(&name.as_str()))
}
