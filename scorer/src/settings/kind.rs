//! The names of a section's choices: the kind of preference model, and the form in which a difference is stored.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The kinds of preference models that can be scored with, as a recipe names them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PreferenceKind {
    /// From the folder: a value head of 1 row → Bradley-Terry, of an even number → GPM, of any other → an input error; a DeBERTa → pair-ranker.
    #[default]
    Auto,
    /// General preference representation model.
    Gpm,
    /// A reward per response, s = r_i − r_j.
    BradleyTerry,
    /// A reward and a GPM's cyclic part, added up (HRC): an odd number of rows, three or more.
    Hrc,
    /// PairRM: a DeBERTa that reads both responses at once, in both orders.
    PairRanker,
    /// A language model that is shown two responses and answers A or B, in both orders.
    PairLm,
    /// A chat model, asked by a rubric in both orders: `model` in this process, or a service at `endpoint`.
    Judge,
    /// The program of `command`, asked a row at a time over its standard input and output.
    Command,
    /// A reward server at `endpoint`, asked a row at a time over HTTP.
    Remote,
    /// The preference models of `members` together.
    Ensemble,
}

impl PreferenceKind {
    /// The τ of a kind whose folder does not decide it, where a recipe gives none; `None` where the folder does, or there is no τ.
    pub fn default_tau(self) -> Option<f64> {
        match self {
            Self::Gpm | Self::Hrc => Some(0.1),
            Self::BradleyTerry => Some(1.0),
            _ => None,
        }
    }

    /// The name that a recipe uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Gpm => "gpm",
            Self::BradleyTerry => "bradley-terry",
            Self::Hrc => "hrc",
            Self::PairRanker => "pair-ranker",
            Self::PairLm => "pair-lm",
            Self::Judge => "judge",
            Self::Command => "command",
            Self::Remote => "remote",
            Self::Ensemble => "ensemble",
        }
    }
}

impl fmt::Display for PreferenceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which number a preference row stores as s(i ≻ j).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ScoreDifference {
    /// The paper's s.
    #[default]
    Paper,
    /// The reference pipeline's difference of two table entries: 2s for an antisymmetric table.
    Reference,
}

impl ScoreDifference {
    /// What s is multiplied by.
    pub fn factor(self) -> f64 {
        match self {
            Self::Paper => 1.0,
            Self::Reference => 2.0,
        }
    }
}
