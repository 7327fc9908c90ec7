//! `train.zero`: what of a training's state each of several ranks holds.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// ZeRO's stages, 0 to 3: each divides over the ranks what the one before it does, and more. The trained weights have the same
/// bits in all of them; one rank holds everything in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub enum ZeroStage {
    /// 0: every rank holds everything.
    Off,
    /// 1: the optimizer's state, and the f32 masters. As many bytes travel as with 0, and no number is moved twice.
    #[default]
    OptimizerState,
    /// 2: and the gradients.
    Gradients,
    /// 3: and the weights.
    Weights,
}

impl ZeroStage {
    /// Whether it is the default, which recipes leave out.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A number that is no stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 0, 1, 2 or 3")]
pub struct BadZeroStage;

impl TryFrom<u8> for ZeroStage {
    type Error = BadZeroStage;

    fn try_from(number: u8) -> Result<Self, BadZeroStage> {
        [Self::Off, Self::OptimizerState, Self::Gradients, Self::Weights]
            .into_iter()
            .find(|stage| u8::from(*stage) == number)
            .ok_or(BadZeroStage)
    }
}

impl From<ZeroStage> for u8 {
    fn from(stage: ZeroStage) -> u8 {
        match stage {
            ZeroStage::Off => 0,
            ZeroStage::OptimizerState => 1,
            ZeroStage::Gradients => 2,
            ZeroStage::Weights => 3,
        }
    }
}

impl fmt::Display for ZeroStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u8::from(*self))
    }
}

impl JsonSchema for ZeroStage {
    fn schema_name() -> Cow<'static, str> {
        "ZeroStage".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 0, "maximum": 3})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_four_numbers_are_read_and_written() {
        for number in 0..4u8 {
            let stage: ZeroStage = serde_json::from_str(&number.to_string()).unwrap();
            assert_eq!(serde_json::to_string(&stage).unwrap(), number.to_string());
        }
        for wrong in ["4", "-1", "\"1\"", "1.5", "null"] {
            assert!(serde_json::from_str::<ZeroStage>(wrong).is_err(), "{wrong}");
        }
        assert!(serde_json::from_str::<ZeroStage>("7").unwrap_err().to_string().contains("0, 1, 2 or 3"));
        assert!(ZeroStage::Off < ZeroStage::OptimizerState && ZeroStage::Gradients < ZeroStage::Weights);
    }
}
