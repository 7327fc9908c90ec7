//! Pairs to policy: preference losses, optimizers and the training loop; supervised fine-tuning and preference
//! models through the same loop.
//!
//! ```text
//! pairs ─ truncate ─ reference ─┐
//! groups ─ old, reference ──────┤
//! instructions ─────────────────┼─ Objective ─ train: divide → accumulate → all-reduce → optimizer → checkpoint
//! comparisons ─ heads, holdout ─┘
//! ```
//!
//! Losses see log-probs only; the decoder sees coefficients per token only. [`train`] is the one way in, over a
//! [`PairObjective`], a [`GroupObjective`], an [`SftObjective`] or a [`PreferenceObjective`]; [`TrainRun`] names the folder of a run and the ranks
//! that train it together ([`collective`]); a call into a folder with a checkpoint resumes from it, bit for bit.

mod activation_memory;
mod batch;
pub mod collective;
mod context;
mod error;
mod fingerprint;
mod log_prob_passes;
mod log_prob_rows;
mod log_probs;
mod lora;
pub mod loss;
mod mixture;
mod objectives;
mod offload;
pub mod optimizer;
pub mod settings;
#[cfg(test)]
mod slow_copies;
pub mod step_cost;
mod token_store;
mod trained;
mod training;
mod turn;
pub mod zero;

pub use activation_memory::ActivationMemory;
pub use batch::micro_batches;
pub use error::{Quantity, TrainError};
pub use log_prob_rows::log_prob_rows;
pub use log_probs::{PromptResponse, ResponseLogProbs, log_prob_chunks, log_probs};
pub use lora::{check_adapter, check_fresh_adapter};
pub use loss::{PairLogProbs, PreferenceTarget};
pub use mixture::{Pick, mixture};
pub use objectives::{
    AnchorPolicy, Anchors, AxisDrift, AxisShares, BatchReport, ComparisonData, ComparisonLabel, Example,
    Examples, GroupBuilder, GroupData, GroupObjective, GroupResponse, MicroBatches, Objective, PairData,
    PairObjective, Part, PreferenceHeadKind, PreferenceObjective, PreferenceSettings,
    PreferenceTrainSettings, REFERENCE_SHARD, ReadsPolicies, SftData, SftExample, SftObjective, SftSettings,
    SftTrainSettings, TokenComparison, TokenGroup, TokenPair, UnpairedBuilder, best_example, load_anchors,
    pair_gradients, sft_example, sft_examples, token_pair,
};
pub use offload::{BLOCKS_THERE, BatchGradients, HostUpdates, PagedGradients, StatePlace};
pub use settings::{
    BadOffload, BadRecompute, BadReferenceRule, BadZeroStage, DataEntry, EachIteration, LoraBias, LoraInit,
    LoraSettings, LossKind, LossTokens, LrSchedule, MergeRule, MicroBatchTokens, Offload, OptimizerKind,
    PairWeight, Recompute, ReferenceRule, TrainSettings, ZeroStage, validate_data,
};
pub use training::{
    EpochAccuracy, Preparation, StepMetrics, TrainOutcome, TrainRun, TrainSummary, ValidationRule, prepare,
    train, train_after,
};
pub use turn::{TurnRules, response_ids};
