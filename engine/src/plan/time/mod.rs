//! An upper bound on the time of each stage, from the operations that the models need and from measured rates.
//!
//! Two operations for each weight and token of a product, the output head where logits are read, scores and sums of
//! attention; a prompt once for all its responses. A backward pass is two forward passes, and what
//! is computed again comes on top. Every prompt and every response is as long as the recipe allows: real ones are shorter and take less.
//!
//! A rate alone would be no bound for less work than was measured. Therefore:
//! - a model smaller than the measured one is assumed to be slower per operation ([`Rate::seconds`]);
//! - fewer candidates than [`FULL_BATCH`] take the time of that many, an optimizer step of fewer tokens than
//!   [`FULL_STEP`] the time of that many: weights are read and updated once for all of them;
//! - starting, loading and writing have a row of their own ([`overhead`]).
//!
//! The bound holds for a machine as fast as the measured one, with nothing else running on it.
//!
//! ```text
//! job       what the stages have to do     passes    of a training step
//! measured  the rates for it               on_host   what a host adds that updates
//! files     what is read and written       held_out  measuring policies
//! stages    all times                      rows      how they are told
//! ```

mod files;
mod held_out;
mod job;
mod measured;
mod on_host;
mod passes;
mod rows;
mod stages;

pub(crate) use files::DISK;
pub(super) use files::{ITERATION, START};
pub(super) use held_out::held_out_by;
pub(super) use job::Job;
pub(super) use measured::Measured;
pub(super) use passes::StepPasses;
pub(crate) use rows::{StageTime, Times, UNIT};
pub(crate) use stages::times;

#[cfg(test)]
mod tests;
