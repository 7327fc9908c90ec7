//! Preference pairs under one of the losses: truncation, log-probs under other policies, gradients.

mod anchors;
mod data;
mod gradients;
mod idle_pairs;
mod objective;
mod reference;
mod token_pair;
mod truncate;
mod weigh;

pub use anchors::{AnchorPolicy, Anchors, load_anchors};
pub use data::PairData;
pub use gradients::{MicroBatches, pair_gradients};
pub use objective::PairObjective;
pub use reference::REFERENCE_SHARD;
pub use token_pair::{TokenPair, token_pair};

pub(crate) use idle_pairs::tell_identical;
pub(crate) use token_pair::check_vocabulary;

#[cfg(test)]
pub(crate) use data::PairMembers;
#[cfg(test)]
pub(crate) use reference::ReferencePass;
