//! The `[score]` section: which preference model compares the candidates, and how.
//!
//! [`ScoreKeys`] is the section as a recipe writes it, the keys of all kinds beside each other; [`ScoreSettings`] is what a
//! model is loaded with, the keys of its kind alone. Keys and defaults are the contract's; added to it: `chat_template`,
//! for a model folder that has none.

mod foreign_keys;
mod keys;
mod kind;
mod score_settings;
#[cfg(test)]
mod tests;

pub use keys::ScoreKeys;
pub use kind::{PreferenceKind, ScoreDifference};
pub use score_settings::ScoreSettings;
