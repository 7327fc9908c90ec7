//! Preference models: GPM and Bradley–Terry heads over a decoder, from comparisons.
//!
//! Loss −log σ(s(chosen ≻ rejected)), mean over the batch; s and its derivatives are in `score.rs`. A comparison's label may hold a
//! probability p (soft labels, ties: −p log σ(s) − (1 − p) log σ(−s)) and a margin m (s − m in the place of s).
//! Tokens are the scorer's (template, special tokens, end token): the caller makes them. A pair's common beginning goes
//! through the backbone once. A share of the comparisons, drawn by the seed, is held out; accuracy and calibration on it are
//! measured after every epoch and kept in `accuracy.jsonl`.

mod comparison;
mod data;
mod held_out;
mod objective;
mod score;
mod settings;

pub use comparison::{ComparisonLabel, TokenComparison};
pub use data::ComparisonData;
pub use objective::PreferenceObjective;
pub use score::PreferenceHeadKind;
pub use settings::{PreferenceSettings, PreferenceTrainSettings};
