//! What kind of model a card is of.

/// What lies in the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelForm {
    /// A whole language model.
    Whole,
    /// An adapter in PEFT's layout.
    Adapter,
    /// A model with preference heads.
    Preference,
}
