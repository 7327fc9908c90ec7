//! The `[preference]` section: the keys that `[train]` does not have, their defaults, and what makes a value wrong.

use schemars::JsonSchema;
use selfplay_records::{Pair, Problems};
use serde::{Deserialize, Serialize};

use super::PreferenceHeadKind;
use crate::{TrainSettings, validate_data};

/// The keys of `[preference]` that `[train]` does not have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreferenceSettings {
    /// Which kind of head is trained.
    pub kind: PreferenceHeadKind,
    /// Dimensions of the value head, an even number for gpm; for hrc those of its cyclic part, to which its reward is added. Absent: 6 for gpm and hrc, 1 for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub dim: Option<usize>,
    /// Whether a GPM's blocks are weighed by a head on the prompt. Absent: true for gpm and hrc, false for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_head: Option<bool>,
    /// What scores are divided by, of hrc the cyclic part. Absent: 0.1 for gpm and hrc, 1 for bradley-terry.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tau: Option<f64>,
    /// Share of the comparisons that is held out; accuracy and calibration on it are written after each epoch.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub holdout: f64,
    /// Whether a row's `chosen_probs` is the probability that its chosen response is the better one. False: it is certain.
    pub soft_labels: bool,
    /// Whether a row's `margin` is how much its chosen response's score is to exceed the other's.
    pub margins: bool,
}

impl Default for PreferenceSettings {
    fn default() -> Self {
        Self {
            kind: PreferenceHeadKind::Gpm,
            dim: None,
            prompt_head: None,
            tau: None,
            holdout: 0.05,
            soft_labels: false,
            margins: false,
        }
    }
}

impl PreferenceSettings {
    /// Rows of the value head.
    pub fn dimensions(&self) -> usize {
        self.written_dim().saturating_add(usize::from(self.kind == PreferenceHeadKind::Hrc))
    }

    /// `dim` as written, or its default.
    fn written_dim(&self) -> usize {
        self.dim.unwrap_or(match self.kind {
            PreferenceHeadKind::Gpm | PreferenceHeadKind::Hrc => 6,
            PreferenceHeadKind::BradleyTerry => 1,
        })
    }

    /// What `dim` is to be for a value head of so many rows.
    pub(super) fn dim_of(&self, rows: usize) -> usize {
        rows.saturating_sub(usize::from(self.kind == PreferenceHeadKind::Hrc))
    }

    /// Whether there is a prompt head.
    pub fn has_prompt_head(&self) -> bool {
        self.prompt_head.unwrap_or(self.kind != PreferenceHeadKind::BradleyTerry)
    }

    /// What scores are divided by.
    pub fn temperature(&self) -> f64 {
        self.tau.unwrap_or(match self.kind {
            PreferenceHeadKind::Gpm | PreferenceHeadKind::Hrc => 0.1,
            PreferenceHeadKind::BradleyTerry => 1.0,
        })
    }

    /// Every wrong value at once, without its section.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut add = |wrong: bool, key: &str, value: String, want: &str| {
            problems.refuse(wrong, key, value, want);
        };
        let dim = self.written_dim();
        match self.kind {
            PreferenceHeadKind::Gpm | PreferenceHeadKind::Hrc => add(
                dim == 0 || dim > MOST_DIMENSIONS || !dim.is_multiple_of(2),
                "dim",
                dim.to_string(),
                "an even number from 2 to 65536 with kind = \"gpm\" and \"hrc\"",
            ),
            PreferenceHeadKind::BradleyTerry => {
                add(dim != 1, "dim", dim.to_string(), "1 with kind = \"bradley-terry\"");
                let want = "false with kind = \"bradley-terry\", which has no blocks to weigh";
                add(self.has_prompt_head(), "prompt_head", "true".into(), want);
            }
        }
        let tau = self.temperature();
        add(!(tau.is_finite() && tau > 0.0), "tau", tau.to_string(), "a finite number above 0");
        add(
            !(0.0..1.0).contains(&self.holdout),
            "holdout",
            self.holdout.to_string(),
            "a share from 0 to below 1",
        );
        problems
    }
}

/// All of `[preference]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PreferenceTrainSettings {
    /// The keys of its own.
    #[serde(flatten)]
    pub preference: PreferenceSettings,
    /// The keys that it shares with `[train]`; `batch_size` counts comparisons, the losses' keys have no meaning.
    #[serde(flatten)]
    pub train: TrainSettings,
}

impl PreferenceTrainSettings {
    /// Every wrong value at once, without its section.
    pub fn validate(&self) -> Problems {
        let mut problems = self.preference.validate();
        problems.extend(self.train.validate());
        problems.extend(validate_data::<Pair>(&self.train.data));
        let tokens = self.train.loss_tokens;
        let only = "a preference model's loss is taken of scores, not of tokens";
        problems.refuse(!tokens.is_responses(), "loss_tokens", tokens, format!("left out: {only}"));
        problems.refuse(!self.train.end_token, "end_token", "false", format!("left out: {only}"));
        problems
    }
}

/// Of a value head: published ones have 8 at most, and each is a row as wide as the model.
const MOST_DIMENSIONS: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_against_the_kind() {
        assert!(PreferenceSettings::default().validate().is_empty());
        let keys = |settings: &PreferenceSettings| {
            settings.validate().list.into_iter().map(|problem| problem.key).collect::<Vec<_>>()
        };
        let odd = PreferenceSettings { dim: Some(5), tau: Some(0.0), holdout: 1.0, ..Default::default() };
        assert_eq!(keys(&odd), ["dim", "tau", "holdout"]);
        let gated = PreferenceSettings {
            kind: PreferenceHeadKind::BradleyTerry,
            dim: Some(2),
            prompt_head: Some(true),
            ..Default::default()
        };
        assert_eq!(keys(&gated), ["dim", "prompt_head"]);
        let bare = PreferenceSettings { kind: PreferenceHeadKind::BradleyTerry, ..Default::default() };
        assert!(keys(&bare).is_empty() && bare.dimensions() == 1 && bare.temperature() == 1.0);
        let hybrid = PreferenceSettings { kind: PreferenceHeadKind::Hrc, ..Default::default() };
        assert!(keys(&hybrid).is_empty() && hybrid.has_prompt_head());
        assert_eq!((hybrid.dimensions(), hybrid.dim_of(7), hybrid.temperature()), (7, 6, 0.1));
        assert_eq!(keys(&PreferenceSettings { dim: Some(7), ..hybrid.clone() }), ["dim"]);
        assert!(keys(&PreferenceSettings { dim: Some(MOST_DIMENSIONS), ..hybrid.clone() }).is_empty());
        for beyond in [MOST_DIMENSIONS + 2, usize::MAX - 1] {
            assert_eq!(keys(&PreferenceSettings { dim: Some(beyond), ..hybrid.clone() }), ["dim"]);
        }
    }
}
