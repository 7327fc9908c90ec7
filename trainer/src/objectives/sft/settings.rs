//! The `[sft]` section: the keys that `[train]` does not have, their defaults, and what makes a value wrong.

use schemars::JsonSchema;
use selfplay_records::{Instruction, Problems};
use serde::{Deserialize, Serialize};

use crate::{TrainSettings, ValidationRule, validate_data};

/// The keys of `[sft]` that `[train]` does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SftSettings {
    /// Whether examples fill sequences of `max_length` tokens, which `batch_size` then counts, so that steps cost the same. No
    /// example attends to another in any case.
    pub packing: bool,
    /// Share of the examples that is held out, drawn by the seed; `val_loss` of metrics.jsonl is their loss.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub val_split: f64,
    /// Steps between two evaluations of the held-out examples; there is one after the last step in any case.
    #[schemars(range(min = 1))]
    pub val_every: usize,
    /// Evaluations in a row without a better `val_loss` after which training ends; the policy is then the best one's. Absent:
    /// training goes on to its last step.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub early_stop: Option<usize>,
}

impl Default for SftSettings {
    fn default() -> Self {
        Self { packing: false, val_split: 0.0, val_every: 50, early_stop: None }
    }
}

impl SftSettings {
    /// When the held-out loss is taken, if any are held out.
    pub(super) fn validation(&self) -> Option<ValidationRule> {
        (self.val_split > 0.0)
            .then_some(ValidationRule { every: self.val_every.max(1), patience: self.early_stop })
    }

    /// Every wrong value at once, without its section.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        problems.refuse(
            !(0.0..1.0).contains(&self.val_split),
            "val_split",
            self.val_split,
            "a share from 0 to below 1",
        );
        problems.refuse(self.val_every == 0, "val_every", 0, "1 step or more");
        if let Some(patience) = self.early_stop {
            problems.refuse(patience == 0, "early_stop", 0, "1 evaluation or more, or \"off\"");
            problems.refuse(
                self.val_split == 0.0,
                "early_stop",
                patience,
                "left out, or val_split above 0: there is no held-out loss to wait for",
            );
        }
        problems
    }
}

/// All of `[sft]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SftTrainSettings {
    /// The keys of its own.
    #[serde(flatten)]
    pub sft: SftSettings,
    /// The keys that it shares with `[train]`; `batch_size` counts examples, the losses' keys have no meaning.
    #[serde(flatten)]
    pub train: TrainSettings,
}

impl SftTrainSettings {
    /// Every wrong value at once, without its section.
    pub fn validate(&self) -> Problems {
        let mut problems = self.sft.validate();
        problems.extend(self.train.validate());
        problems.extend(validate_data::<Instruction>(&self.train.data));
        problems
    }
}

impl From<&TrainSettings> for SftTrainSettings {
    fn from(train: &TrainSettings) -> Self {
        Self { sft: SftSettings::default(), train: train.clone() }
    }
}

impl From<&Self> for SftTrainSettings {
    fn from(settings: &Self) -> Self {
        settings.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn early_stop_needs_something_held_out() {
        assert!(SftTrainSettings::default().validate().is_empty());
        let keys = |settings: SftSettings| {
            settings.validate().list.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        assert_eq!(keys(SftSettings { early_stop: Some(3), ..Default::default() }), ["early_stop"]);
        let wrong = SftSettings { val_split: 1.0, val_every: 0, early_stop: Some(0), packing: true };
        assert_eq!(keys(wrong), ["val_split", "val_every", "early_stop"]);
        let right = SftSettings { val_split: 0.1, early_stop: Some(1), ..Default::default() };
        assert_eq!(right.validation(), Some(ValidationRule { every: 50, patience: Some(1) }));
        assert_eq!(SftSettings::default().validation(), None);
    }
}
