//! Which tokens of an example a loss is taken over.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which tokens of an example a loss is taken over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossTokens {
    /// Those of the responses.
    #[default]
    Responses,
    /// The prompt's as well, but for its first one, which nothing predicts.
    All,
}

impl LossTokens {
    /// Whether it is the default, which a recipe leaves out.
    pub fn is_responses(&self) -> bool {
        *self == Self::Responses
    }
}

impl fmt::Display for LossTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responses => "responses",
            Self::All => "all",
        })
    }
}
