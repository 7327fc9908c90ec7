//! `[ranks]`: how the processes that a launcher started work on one run. What a shard holds does not depend on it.

use std::time::Duration;

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// Which ranks train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TrainOn {
    /// All, by NCCL or MPI.
    #[default]
    All,
    /// Rank 0, while the others wait; needs neither.
    First,
}

/// `[ranks]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RanksSection {
    /// Which ranks train. All of them sample and score.
    pub train_on: TrainOn,
    /// Seconds that a rank may take to come, and later on between two signs that it gets on: more than an optimizer step or the writing of a checkpoint takes. Loading, pairing and evaluating have ten times as long.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub timeout: f64,
    /// Seconds without such a sign after which another rank takes a shard over.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub stale_after: f64,
}

impl Default for RanksSection {
    fn default() -> Self {
        Self { train_on: TrainOn::All, timeout: 600.0, stale_after: 120.0 }
    }
}

impl RanksSection {
    /// Whether nothing is asked for: `recipe.toml` is then as without the section.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long a rank may take between two signs of life.
    pub(crate) fn timeout(&self) -> Duration {
        duration(self.timeout)
    }

    /// After how long a shard may be taken over.
    pub(crate) fn stale_after(&self) -> Duration {
        duration(self.stale_after)
    }

    /// Between two signs of life: many of them fit into the shorter of the two times.
    pub(crate) fn interval(&self) -> Duration {
        duration((self.timeout.min(self.stale_after) / 20.0).clamp(0.02, 2.0))
    }

    /// Every wrong value, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        for (key, value) in [("timeout", self.timeout), ("stale_after", self.stale_after)] {
            let is_time = value.is_finite() && value > 0.0 && value <= 1e7;
            problems.refuse(!is_time, key, value, "a number of seconds above 0, at most 1e7");
        }
        problems
    }
}

/// Seconds; values that `validate` refuses are taken as an hour.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::from_secs(3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_bounds_and_signs_come_often_enough() {
        let of = |timeout, stale_after| RanksSection { timeout, stale_after, ..RanksSection::default() };
        assert!(RanksSection::default().validate().is_empty());
        for wrong in [of(0.0, 1.0), of(1.0, -2.0), of(f64::NAN, 1.0), of(1e9, 1.0)] {
            assert_eq!(wrong.validate().list.len(), 1, "{wrong:?}");
        }
        assert_eq!(of(600.0, 120.0).interval(), Duration::from_secs(2));
        assert_eq!(of(600.0, 1.0).interval(), Duration::from_millis(50));
        assert!(RanksSection::default().is_default() && !of(1.0, 1.0).is_default());
    }
}
