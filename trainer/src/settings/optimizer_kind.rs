//! `optimizer`: the update rule.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The optimizer's update rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimizerKind {
    /// torch's RMSprop: one state tensor by default, ε outside the root, weight decay coupled.
    #[default]
    #[serde(rename = "rmsprop")]
    RmsProp,
    /// AdamW: two state tensors, weight decay decoupled.
    #[serde(rename = "adamw")]
    AdamW,
    /// RMSProp with its state in eight bits a number, bitsandbytes' block-wise form; no momentum, not centered.
    #[serde(rename = "rmsprop8bit")]
    RmsProp8Bit,
    /// AdamW with its state in eight bits a number, bitsandbytes' block-wise form.
    #[serde(rename = "adamw8bit")]
    AdamW8Bit,
}

impl OptimizerKind {
    /// Whether the state of large tensors is kept in eight bits.
    pub fn is_eight_bit(self) -> bool {
        matches!(self, Self::RmsProp8Bit | Self::AdamW8Bit)
    }
}

impl fmt::Display for OptimizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OptimizerKind::RmsProp => "rmsprop",
            OptimizerKind::AdamW => "adamw",
            OptimizerKind::RmsProp8Bit => "rmsprop8bit",
            OptimizerKind::AdamW8Bit => "adamw8bit",
        })
    }
}
