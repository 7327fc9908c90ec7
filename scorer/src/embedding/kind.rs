//! The kinds of models that embed each response.

/// The kinds of models that embed, distinguished by their value head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmbeddingKind {
    /// An even number of rows.
    Gpm,
    /// One row.
    BradleyTerry,
    /// An odd number of rows, three or more: a reward, then the rows of a GPM.
    Hrc,
}

impl EmbeddingKind {
    /// τ where the recipe gives none.
    pub(super) fn default_tau(self) -> f64 {
        match self {
            Self::Gpm | Self::Hrc => 0.1,
            Self::BradleyTerry => 1.0,
        }
    }

    /// The name that a recipe uses.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gpm => "gpm",
            Self::BradleyTerry => "bradley-terry",
            Self::Hrc => "hrc",
        }
    }

    /// Whether its blocks may be weighed by a prompt head.
    pub(super) fn has_gate(self) -> bool {
        self != Self::BradleyTerry
    }
}
