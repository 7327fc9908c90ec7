//! `lr_schedule`: the shape of the learning rate.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of the learning rate after warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LrSchedule {
    /// Straight line down to 0 at the end of the schedule.
    #[default]
    Linear,
    /// Half a cosine down to 0 at the end of the schedule.
    Cosine,
    /// Stays at `learning_rate`.
    Constant,
}

impl fmt::Display for LrSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LrSchedule::Linear => "linear",
            LrSchedule::Cosine => "cosine",
            LrSchedule::Constant => "constant",
        })
    }
}
