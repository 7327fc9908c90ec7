//! The preference heads that an adapter brings.

use std::path::Path;

use super::head_names::{PROMPT, SCORE, VALUE};
use super::read::AdapterFile;
use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::error::ModelError;
use crate::weights::HeadSpecs;

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
