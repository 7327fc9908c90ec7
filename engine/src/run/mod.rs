//! A run on disk: its folder, what it was begun with, what is left to do, what its numbers are.
//!
//! ```text
//! dir           paths of a run folder          manifest       what a run was begun with
//! iteration_dir paths of an iteration         listing        what is in a folder
//! stages_left   what is left, from the disk    input_files    the files that it reads, hashed
//! lock          one process per folder         policy_files   the files of a finished policy, hashed
//! events        what happened, with seconds    branch         a run that shares another's stages
//! summary       numbers as plain data          anchors        which policies a training reads
//! leaves        what a training leaves: a model, an adapter
//! unbegun       whether a folder is free      step_metrics   metrics.jsonl, for readers
//! ranks_place   where the ranks of a launch meet
//! ```

pub(crate) mod anchors;
pub(crate) mod branch;
pub(crate) mod branch_point;
pub(crate) mod dir;
pub(crate) mod events;
pub(crate) mod input_files;
mod iteration_dir;
pub(crate) mod leaves;
pub(crate) mod length_growth;
mod listing;
pub(crate) mod lock;
pub(crate) mod manifest;
pub(crate) mod policy_files;
pub(crate) mod ranks_place;
pub(crate) mod stages_left;
pub(crate) mod step_metrics;
pub(crate) mod summary;
pub(crate) mod unbegun;
