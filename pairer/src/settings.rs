//! The `[pair]` section: which responses of a prompt become a pair.

use schemars::JsonSchema;
use selfplay_records::Problems;
use serde::{Deserialize, Serialize};

/// How the chosen and the rejected response are picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PairRule {
    /// Highest against lowest mean score.
    #[default]
    BestWorst,
    /// Highest mean score against any other, drawn by (seed, iteration, prompt id).
    BestRandom,
    /// Every (i, j) with s(i ≻ j) above `margin`.
    AllAboveMargin,
    /// Every two responses, ties too, the one with the higher mean score chosen: for a loss over the whole table.
    All,
    /// A control, for experiments only: both responses drawn at random, with the numbers of the best-worst pair.
    Random,
}

/// The keys of `[pair]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PairSettings {
    /// Which pairs a prompt gives.
    pub rule: PairRule,
    /// What a pair's difference has to exceed: of s(i ≻ j) in `all-above-margin`, of the mean scores otherwise.
    #[schemars(range(min = 0))]
    pub margin: f64,
    /// Earlier iterations whose candidates for the same prompt compete with the new ones, in scoring and in pairing: as many as there are
    /// of the last so many. Absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub opponents: Option<usize>,
    /// Fewest tokens of a response that may be chosen or rejected. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_tokens: Option<usize>,
    /// Most tokens of a response that may be chosen or rejected. Absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_tokens: Option<usize>,
}

impl PairSettings {
    /// Every wrong value of this section, without the section's name; empty when all is well.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut wrong = |key: &str, value: String, want: String| problems.value(key, value, want);
        if !(self.margin.is_finite() && self.margin >= 0.0) {
            wrong("margin", self.margin.to_string(), "a number, 0 or more".to_owned());
        }
        if self.margin > 0.0 && self.rule == PairRule::All {
            wrong(
                "margin",
                self.margin.to_string(),
                "0 with rule = \"all\", which takes ties too; all-above-margin has one".to_owned(),
            );
        }
        if self.opponents == Some(0) {
            wrong("opponents", "0".to_owned(), "1 iteration or more, or \"none\"".to_owned());
        }
        if self.max_tokens == Some(0) {
            wrong("max_tokens", "0".to_owned(), "1 token or more".to_owned());
        }
        if let (Some(min), Some(max)) = (self.min_tokens, self.max_tokens)
            && min > max
        {
            wrong("min_tokens", min.to_string(), format!("at most pair.max_tokens ({max})"));
        }
        problems
    }
}
