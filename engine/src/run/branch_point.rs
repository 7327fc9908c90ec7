//! A branch point: the last stage that a branch shares with the run that it comes from.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `iteration_NN/{candidates,preferences,pairs}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BranchPoint {
    /// From 1.
    pub iteration: usize,
    /// The last stage that is shared.
    pub stage: SharedStage,
}

/// A stage that a branch can share last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharedStage {
    /// `candidates/`.
    Candidates,
    /// `preferences/` as well.
    Preferences,
    /// `pairs.parquet` as well.
    Pairs,
}

impl SharedStage {
    fn name(self) -> &'static str {
        match self {
            Self::Candidates => "candidates",
            Self::Preferences => "preferences",
            Self::Pairs => "pairs",
        }
    }
}

/// A text that is no branch point.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--from {given}: iteration_NN/candidates, iteration_NN/preferences or iteration_NN/pairs is wanted")]
pub struct BadBranchPoint {
    /// What was given.
    pub given: String,
}

impl fmt::Display for BranchPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iteration_{:02}/{}", self.iteration, self.stage.name())
    }
}

impl FromStr for BranchPoint {
    type Err = BadBranchPoint;

    fn from_str(text: &str) -> Result<Self, BadBranchPoint> {
        let bad = || BadBranchPoint { given: text.to_owned() };
        let (iteration, stage) = text.trim_end_matches('/').split_once('/').ok_or_else(bad)?;
        let digits = iteration.strip_prefix("iteration_").ok_or_else(bad)?;
        let iteration = digits.parse().ok().filter(|number| *number > 0).ok_or_else(bad)?;
        let stage = match stage {
            "candidates" => SharedStage::Candidates,
            "preferences" => SharedStage::Preferences,
            "pairs" | "pairs.parquet" => SharedStage::Pairs,
            _ => return Err(bad()),
        };
        Ok(Self { iteration, stage })
    }
}

impl Serialize for BranchPoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BranchPoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::EngineError;

    #[test]
    fn points_are_read_and_shown() {
        for text in ["iteration_01/candidates", "iteration_12/preferences", "iteration_03/pairs"] {
            assert_eq!(text.parse::<BranchPoint>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "iteration_01",
            "iteration_00/pairs",
            "iteration_01/policy",
            "iter_01/pairs",
            "iteration_x/pairs",
        ] {
            let error = text.parse::<BranchPoint>().unwrap_err();
            assert_eq!(error, BadBranchPoint { given: text.to_owned() });
            assert_eq!(EngineError::from(error).exit_status(), 2, "{text}");
        }
    }
}
