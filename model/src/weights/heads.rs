//! The heads of preference models among the weights of a folder: which layouts there are, and which are refused.

use serde_json::Value;

use super::WeightFiles;
use crate::architecture::{Architecture, ParameterKind, TensorSpec};
use crate::error::ModelError;
use crate::json::read_json;

/// The heads of a preference model that a folder holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadSpecs {
    /// `value_head.weight` (or `score.weight`) [d, hidden].
    pub value_head: Option<TensorSpec>,
    /// `prompt_head.weight` [d/2, hidden].
    pub prompt_head: Option<TensorSpec>,
}

impl WeightFiles {
    /// The preference heads that the files hold. The value head is the one that config.json's `value_head_prefix` names
    /// (OpenRLHF), else `value_head.weight`, else `score.weight` (transformers' sequence classification).
    ///
    /// Errors: a head that config.json names and the files lack; a head that is no matrix [d, hidden]; a classifier of several
    /// classes; a reward model of another layout.
    pub fn heads(&self, architecture: &Architecture) -> Result<HeadSpecs, ModelError> {
        self.refuse_other_layouts()?;
        let value_head = match self.named_head(architecture)? {
            Some(spec) => Some(spec),
            None => match self.head("value_head.weight", architecture)? {
                Some(spec) => Some(spec),
                None => self.classifier(architecture)?,
            },
        };
        Ok(HeadSpecs { value_head, prompt_head: self.head("prompt_head.weight", architecture)? })
    }

    /// The head that config.json names.
    fn named_head(&self, architecture: &Architecture) -> Result<Option<TensorSpec>, ModelError> {
        let path = self.folder().join("config.json");
        let config = if path.is_file() { read_json(&path, "")? } else { Value::Null };
        let Some(prefix) = config["value_head_prefix"].as_str() else { return Ok(None) };
        if config["normalize_reward"] == Value::Bool(true) {
            return Err(ModelError::input(
                &path,
                "`normalize_reward` is true: its rewards are divided by `std`",
                "set it to false, and score.tau to that `std`",
            ));
        }
        match self.head(&format!("{prefix}.weight"), architecture)? {
            Some(spec) => Ok(Some(spec)),
            None => Err(ModelError::input(
                self.folder(),
                format!("config.json names the head {prefix:?}, and the weights have no {prefix}.weight"),
                "weights and config.json must be of one model; a head is never made up",
            )),
        }
    }

    /// The head of transformers' `…ForSequenceClassification`.
    fn classifier(&self, architecture: &Architecture) -> Result<Option<TensorSpec>, ModelError> {
        match self.head("score.weight", architecture)? {
            // With a gate beside it, it is a general preference model under another name.
            Some(spec) if spec.shape[0] != 1 && !self.contains("prompt_head.weight") => {
                Err(ModelError::input(
                    self.folder(),
                    format!("its score.weight is a classifier of {} classes", spec.shape[0]),
                    "a score.weight must have one output (bradley-terry); a general preference model's head is \
                 value_head.weight",
                ))
            }
            found => Ok(found),
        }
    }

    /// Reward models whose answer is no product with one head.
    fn refuse_other_layouts(&self) -> Result<(), ModelError> {
        for (prefix, layout) in [
            (
                "regression_layer.",
                "a multi-objective reward model (ArmoRM, QRM), whose gate mixes many rewards",
            ),
            ("gating.", "a multi-objective reward model (ArmoRM, QRM), whose gate mixes many rewards"),
            (
                "v_head.",
                "a value model of TRL's PPO, trained to predict returns and not to compare responses",
            ),
        ] {
            if let Some(name) = self.names().into_iter().find(|name| name.starts_with(prefix)) {
                return Err(ModelError::input(
                    self.folder(),
                    format!("it has the tensor {name}: {layout}"),
                    "give a reward model with score.weight [1, hidden], or a general preference model",
                ));
            }
        }
        Ok(())
    }

    fn head(&self, name: &str, architecture: &Architecture) -> Result<Option<TensorSpec>, ModelError> {
        let Some((path, stored_name, shape)) = self.stored(name) else { return Ok(None) };
        if shape.len() != 2 || shape[0] == 0 || shape[1] != architecture.hidden_size {
            return Err(ModelError::input(
                path,
                format!("tensor {stored_name} has shape {shape:?}"),
                format!("a head must be [outputs, {}], as wide as the model", architecture.hidden_size),
            ));
        }
        Ok(Some(TensorSpec { name: name.to_owned(), shape: shape.to_vec(), kind: ParameterKind::Matrix }))
    }
}
