//! Preference models: GPM and Bradley–Terry heads over a decoder, from comparisons.
//!
//! Loss −log σ(s(chosen ≻ rejected)), mean over the batch; s and its derivatives are in `score.rs`.
//! Tokens are the scorer's (template, special tokens, end token): the caller makes them. A pair's common beginning goes
//! through the backbone once. A share of the comparisons, drawn by the seed, is held out; the accuracy on it is measured
//! after every epoch and kept in `accuracy.jsonl`.

mod comparison;
mod objective;
mod score;
mod settings;

pub use comparison::TokenComparison;
pub use objective::PreferenceObjective;
pub use score::PreferenceHeadKind;
pub use settings::{PreferenceSettings, PreferenceTrainSettings};
