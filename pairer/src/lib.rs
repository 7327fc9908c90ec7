//! Candidates and preferences → pairs: which response is chosen, which is rejected.
//!
//! `docs/algorithms.md`, "One iteration", step 3: the mean score per candidate, chosen = argmax, rejected = argmin
//! (the reference pipeline's rule, `best-worst`). Pure: the same rows, settings, seed and iteration give the same pairs.
//!
//! ```text
//! settings   the keys of [pair]
//! select     joins the rows by prompt_id and checks them
//! rules      which responses a prompt's pairs have
//! prompt_rng the random numbers of the rules that draw
//! ```

mod error;
mod prompt_rng;
mod rules;
mod select;
mod settings;
#[cfg(test)]
mod tests;

pub use error::PairingError;
pub use select::{DropCounts, Selected, select};
pub use settings::{PairRule, PairSettings};
