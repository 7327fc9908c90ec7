//! `train.offload`: what of a training's state the host keeps for a GPU.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the host keeps. The trained weights have the same bits wherever it is; on a CPU all of it is in one memory anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// What does not fit into the device's memory beside the rest: the optimizer's state and the f32 masters, then the gradients. A
    /// training that the host has no memory for either ends before it begins.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// The optimizer's state and the f32 masters: the update runs on the host, in pieces beside the copies and, on one rank, beside the
    /// device's passes (with max_grad_norm = 0 while the backward goes on).
    Optimizer,
    /// These, and the sums of the blocks' gradients, which come to the device and go beside its work. For one rank.
    #[serde(rename = "optimizer+gradients")]
    OptimizerAndGradients,
}

impl Offload {
    /// Whether it is the default, which recipes leave out.
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// A text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, none, optimizer or optimizer+gradients")]
pub struct BadOffload;

impl FromStr for Offload {
    type Err = BadOffload;

    fn from_str(text: &str) -> Result<Self, BadOffload> {
        [Self::Auto, Self::None, Self::Optimizer, Self::OptimizerAndGradients]
            .into_iter()
            .find(|rule| rule.to_string() == text)
            .ok_or(BadOffload)
    }
}

impl fmt::Display for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::None => "none",
            Self::Optimizer => "optimizer",
            Self::OptimizerAndGradients => "optimizer+gradients",
        })
    }
}
