//! `train.pair_weight`: how much each pair, or of `kto` each response, counts beside the others.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the loss of a pair, or of a single response, is multiplied by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PairWeight {
    /// 1.
    #[default]
    Equal,
    /// Its margin s(w ≻ l) over the mean margin of all pairs; 0 where it is below 0. Of kto: |ŝ| over its mean.
    Margin,
}

impl PairWeight {
    /// Whether it is the default, which recipes leave out.
    pub(super) fn is_equal(&self) -> bool {
        *self == Self::Equal
    }
}

impl fmt::Display for PairWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "equal",
            Self::Margin => "margin",
        })
    }
}
