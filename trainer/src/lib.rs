//! Pairs to policy: preference losses, optimizers and the training loop; supervised fine-tuning and preference
//! models through the same loop.
//!
//! ```text
//! pairs ─ token_pair ─ truncate ─ reference ─┐
//! instructions ─ sft ────────────────────────┼─ training_loop: step → clip → optimizer → metrics → checkpoint
//! comparisons ─ preference_model ────────────┘
//! ```
//!
//! Losses see log-probs only; the decoder sees coefficients per token only. [`train_pairs`], [`train_sft`] and
//! [`train_preference_model`] are the three ways in, [`TrainRun`] says where a run lives, and a call into a
//! folder with a checkpoint goes on from it, bit for bit.

mod batch;
pub mod checkpoint;
mod context;
mod error;
mod fingerprint;
pub mod grad_clip;
mod idle_pairs;
mod log_prob_rows;
mod log_probs;
pub mod loss;
pub mod lr_schedule;
mod metrics;
mod objective;
pub mod optimizer;
mod preference_model;
mod preference_score;
mod reference;
mod run;
pub mod settings;
mod sft;
mod shuffle;
mod step;
mod token_pair;
mod train;
mod training_loop;
mod truncate;
mod turn;

pub use batch::micro_batches;
pub use error::{Quantity, TrainError};
pub use log_prob_rows::log_prob_rows;
pub use log_probs::{PromptResponse, ResponseLogProbs, log_probs};
pub use loss::{PairLogProbs, PreferenceTarget};
pub use metrics::{EpochAccuracy, StepMetrics};
pub use objective::BatchReport;
pub use preference_model::{
    PreferenceSettings, PreferenceTrainSettings, TokenComparison, train_preference_model,
};
pub use preference_score::PreferenceHead;
pub use run::{TrainOutcome, TrainRun, TrainSummary};
pub use settings::{LossKind, LrSchedule, OptimizerKind, TrainSettings};
pub use sft::{SftExample, sft_examples, train_sft};
pub use shuffle::epoch_order;
pub use step::{PassSettings, pair_gradients};
pub use token_pair::{TokenPair, token_pairs};
pub use train::train_pairs;
pub use truncate::{LengthLimits, truncate};

#[cfg(test)]
mod loop_tests;
#[cfg(test)]
mod turn_tests;
