//! Preference pairs under one of the ten losses: truncation, reference log-probs, gradients.

mod gradients;
mod idle_pairs;
mod objective;
mod reference;
mod token_pair;
mod truncate;

pub use gradients::{PassSettings, pair_gradients};
pub use objective::PairObjective;
pub use token_pair::{TokenPair, token_pairs};

pub(crate) use idle_pairs::count_identical;
pub(crate) use token_pair::check_vocabulary;

#[cfg(test)]
pub(crate) use reference::{ReferencePass, fill_references};
