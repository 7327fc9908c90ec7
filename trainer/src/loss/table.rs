//! What the rest of the program asks of a loss by its name, answered by the `FORM` of the loss's file.

use std::fmt;

use selfplay_records::ExampleKind;

use super::form::{Against, Equation, LossForm, LossKey};
use super::inputs::TargetField;
use super::kind::{LossKind, losses};

macro_rules! forms {
    ($($(#[$about:meta])* $variant:ident = $module:ident,)+) => {
        impl LossKind {
            /// What the rest of the program must know of the loss.
            pub(super) fn form(self) -> &'static LossForm {
                match self {
                    $(LossKind::$variant => &super::$module::FORM,)+
                }
            }
        }
    };
}

losses!(forms);

impl LossKind {
    /// The name in recipes.
    pub fn name(self) -> &'static str {
        self.form().name
    }

    /// What the loss learns from.
    pub fn examples(self) -> ExampleKind {
        self.form().examples
    }

    /// The target fields that every pair must have for this loss.
    pub(crate) fn required_targets(self) -> &'static [TargetField] {
        self.form().targets
    }

    /// Whether the loss reads a key that not all of them read.
    pub(crate) fn reads(self, key: LossKey) -> bool {
        self.form().keys.contains(&key)
    }

    /// The names of the losses that read a key: "dpo, robust and exo-pair".
    pub(crate) fn readers(key: LossKey) -> String {
        let names: Vec<&str> =
            Self::ALL.into_iter().filter(|kind| kind.reads(key)).map(LossKind::name).collect();
        match names.split_last() {
            Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
            _ => names.concat(),
        }
    }
}

impl fmt::Display for LossKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the loss reads reference log-probs: all but SimPO, ORPO and best-of-k.
pub fn needs_reference(kind: LossKind) -> bool {
    kind.form().against != Against::Nothing
}

/// Whether the loss reads log-probs under an initial policy as well: `inpo` only.
pub fn needs_initial(kind: LossKind) -> bool {
    kind.form().against == Against::ReferenceAndInitial
}

/// Whether the loss of one pair depends on the others beyond `BatchTotals`: `kto-pair` and `kto`.
pub fn needs_whole_batch(kind: LossKind) -> bool {
    matches!(kind.form().equation, Equation::Batch(_))
}
