//! `train.offload`: what of a training's state the host keeps for a GPU.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the host keeps. The trained weights have the same bits wherever it is; on a CPU all of it is in one memory anyway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Offload {
    /// The optimizer's state and the f32 masters, where they do not fit into the device's memory beside the rest.
    #[default]
    Auto,
    /// Nothing.
    None,
    /// The optimizer's state and the f32 masters: the update runs on the host, in pieces beside the copies.
    Optimizer,
}

impl Offload {
    /// Whether it is the default, which recipes leave out.
    pub(super) fn is_auto(&self) -> bool {
        *self == Self::Auto
    }
}

/// A text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, none or optimizer")]
pub struct BadOffload;

impl FromStr for Offload {
    type Err = BadOffload;

    fn from_str(text: &str) -> Result<Self, BadOffload> {
        [Self::Auto, Self::None, Self::Optimizer]
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
        })
    }
}
