//! The training loop that all objectives share, and what it keeps on disk.
//!
//! ```text
//! train ─ check ─ prepare ─┬─ step: divide → accumulate → all-reduce → norm → optimizer → metrics ─┐
//!                          └─ checkpoint every so many steps, at the end, and when stopped      ◂─┘
//! ```

pub(crate) mod checkpoint;
mod division;
mod gradient;
mod lr_schedule;
mod metrics;
mod pass_size;
mod run;
mod sharded;
mod shuffle;
mod state;
mod training_loop;
mod validation;

pub use metrics::{EpochAccuracy, StepMetrics};
pub use run::{Preparation, TrainOutcome, TrainRun, TrainSummary};
pub use training_loop::{prepare, train, train_after};
pub use validation::ValidationRule;

pub(crate) use lr_schedule::PlannedSteps;
pub(crate) use metrics::{StepLog, read_lines};
pub(crate) use shuffle::epoch_order;
pub(crate) use training_loop::first_problem;

#[cfg(test)]
mod tests;
