//! What a recipe will need of memory and disk, from the models' shapes alone.
//!
//! Counted: weights, their f32 masters where they are 16 bits wide, gradients, optimizer state, what the backward
//! pass keeps and makes, one chunk of the output head, pages of keys and values, a step of sampling, a pass of scoring,
//! the program itself, and in training on a CPU the allocator's slack. Not counted: the rows in memory. `tests/plan_memory.rs` holds the plan of
//! a training against its peak.
//!
//! ```text
//! models    the two models of a recipe         passes    what a training's passes make
//! state     what a training holds              training  both together
//! sampling  while candidates are sampled       scoring   while they are compared
//! phases    all of it                          files     what a run writes
//! ```

mod breakdown;
mod files;
mod models;
mod passes;
mod phases;
mod sampling;
mod scoring;
mod state;
mod training;

pub(crate) use breakdown::MemoryBreakdown;
pub(crate) use files::{adapter_folder, candidates, checkpoint, policy_folder};
pub(crate) use models::{Models, policy_shape};
pub(super) use passes::{activations, passing};
pub(crate) use passes::{longest_pair, pass_tokens};
pub(crate) use phases::{Need, Phase, needs, rows_at_a_time};
pub(crate) use sampling::{batch_limits, candidate_pages, key_value_pages};
pub(crate) use scoring::{longest_scored, scoring_tokens};
pub(crate) use state::{may_offload, offloaded_bytes, state_place, trained_numbers, training_state};
pub(super) use state::{optimizer_title, state_bytes};
pub(super) use training::keep_beside;
pub(crate) use training::{keep_plan, training};

#[cfg(test)]
pub(crate) mod tests;
