//! Candidates and preferences → pairs: which response is chosen, which is rejected.
//!
//! `docs/algorithms.md`, "One iteration", step 3: the mean score per candidate, chosen = argmax, rejected = argmin
//! (the reference pipeline's rule, `best-worst`). Pure: the same rows, settings, seed and iteration give the same pairs.
//!
//! ```text
//! settings   the keys of [pair]
//! join       joins the rows by prompt_id and checks them
//! select     pairs, and why prompts give none
//! completions  single responses in the place of pairs
//! rules      which responses a prompt's pairs have
//! prompt_rng the random numbers of the rules that draw
//! ```

mod completions;
mod error;
mod join;
mod prompt_rng;
mod rules;
mod select;
mod settings;
#[cfg(test)]
mod tests;

pub use completions::{SelectedCompletions, select_completions};
pub use error::PairingError;
pub use select::{DropCounts, Selected, select};
pub use settings::{PairRule, PairSettings};
