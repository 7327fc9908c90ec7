//! The `[train]` section: every key and its default.
//!
//! Keys and defaults are the contract's. Where the contract is silent:
//! - `simpo_gamma` defaults to 0.5, TRL's default; it is subtracted from β × margin, as in the SimPO paper.
//! - `max_grad_norm = 0` turns clipping off, as in the Hugging Face trainer.
//! - `target_clamp` and `max_steps` take the word `"off"` besides a number, so that `--set` can undo a recipe's value.
//! - `eta` and `rho` default to COMAL's published 0.002 and ⅓; all of INPO's keys are refused with any other loss.
//! - A key that the chosen loss would ignore (`label_smoothing` with `hinge`, say) is a problem, not a silent no-op.
//!
//! What makes a value wrong stands in `check.rs`.

mod lora;

pub use lora::{EachIteration, LoraBias, LoraInit, LoraSettings, MergeRule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod check;
mod data;
mod examples;
mod loss;
mod loss_tokens;
mod micro_batch_tokens;
mod offload;
mod optimizer_kind;
mod or_off;
mod pair_weight;
mod recompute;
mod reference_rule;
mod schedule_kind;
mod zero;

use examples::ExampleKeys;

use crate::optimizer::eight_bit;

pub use crate::loss::LossKind;
pub use data::{DataEntry, validate_data};
pub use loss_tokens::LossTokens;
pub use micro_batch_tokens::MicroBatchTokens;
pub use offload::{BadOffload, Offload};
pub use optimizer_kind::OptimizerKind;
pub use pair_weight::PairWeight;
pub use recompute::{BadRecompute, Recompute};
pub use reference_rule::{BadReferenceRule, ReferenceRule};
pub use schedule_kind::LrSchedule;
pub use zero::{BadZeroStage, ZeroStage};

/// Every key of `[train]`. `Default` is the contract's table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSettings {
    /// Which loss.
    pub loss: LossKind,
    /// Strength of the pull to the reference (η = 1/β in the SPPO and GPO papers).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Bound on the absolute value of the regression target of SPPO and GPO (ŝ/β and the like).
    #[serde(with = "or_off")]
    #[schemars(with = "Option<f64>", extend("exclusiveMinimum" = 0))]
    pub target_clamp: Option<f64>,
    /// ε of `dpo`, `dpo-norm`, `robust` and `exo-pair` (0 is 0.001 there), 0 ≤ ε < ½.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Divides log-ratios by the response's tokens (as TRL's `ipo` and `sigmoid_norm`; GPO with it is LN-GPO). SimPO and
    /// ORPO always do.
    pub length_normalized: bool,
    /// Weight of the mean NLL over the batch's chosen response tokens, added to the loss (RPO).
    #[schemars(range(min = 0))]
    pub sft_weight: f64,
    /// γ of SimPO, subtracted from β × margin.
    #[schemars(range(min = 0))]
    pub simpo_gamma: f64,
    /// Which policy Δ is taken against: `previous` (the one that the iteration starts from), `initial` (the run's first), or
    /// `every-N` (the run's first, renewed every N iterations). With `inpo` Δ is always taken against the iteration's own,
    /// and the key says which one ρ weighs: the run's first, but for `every-N`. Absent: previous.
    #[serde(skip_serializing_if = "ReferenceRule::is_previous")]
    pub reference: ReferenceRule,
    /// η of `inpo`: the margin's target is 1/(2η). Absent: 0.002 with inpo.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: Option<f64>,
    /// ρ of `inpo`: the weight of the initial policy, 0 to 1; the rest is the last policies'. Absent: ⅓ with inpo.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1))]
    pub rho: Option<f64>,
    /// How many of the last policies `inpo` holds the new one against, the iteration's own among them (MNPO). Absent: 1
    /// with inpo.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub history: Option<usize>,
    /// Their weights λ, the iteration's own policy first; divided by the sum of those that there are yet. Absent: all the
    /// same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_weights: Option<Vec<f64>>,
    /// How much each pair counts: `equal`, or by its `margin` s(w ≻ l); with kto, each response by |ŝ|. Absent: equal.
    #[serde(skip_serializing_if = "PairWeight::is_equal")]
    pub pair_weight: PairWeight,
    /// λ_D of `kto`, which multiplies the loss of desirable responses. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub desirable_weight: Option<f64>,
    /// λ_U of `kto`, of undesirable ones. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub undesirable_weight: Option<f64>,
    /// How far below 1 a token's ratio to the sampling policy counts, of `grpo` and `gprl`. Absent: 0.2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub clip: Option<f64>,
    /// How far above 1 it does. Absent: as clip.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip_high: Option<f64>,
    /// Weight of the divergence from the reference, of `grpo` and `gprl`; 0 is off. Absent: 0.04.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub kl_weight: Option<f64>,
    /// Drift of the axes' shares since the first iteration, in nats, from which `gprl` holds back the axes that grow. Absent: 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub drift_threshold: Option<f64>,
    /// How strongly it does; 0 leaves the axes as they are and raises the divergence's weight alone. Absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub drift_strength: Option<f64>,
    /// Which optimizer.
    pub optimizer: OptimizerKind,
    /// Decay of RMSProp's running mean square (torch's `alpha`).
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub rmsprop_alpha: f64,
    /// ε in the denominator of either optimizer, outside the root.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub epsilon: f64,
    /// Momentum of RMSProp; 0 keeps no buffer.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub momentum: f64,
    /// RMSProp divides by the standard deviation in the place of the root mean square.
    pub centered: bool,
    /// AdamW's decay of the running mean.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub adam_beta1: f64,
    /// AdamW's decay of the running mean square.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub adam_beta2: f64,
    /// Weight decay: coupled in RMSProp, decoupled in AdamW; norms and biases are left out.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Peak learning rate.
    #[schemars(range(min = 0))]
    pub learning_rate: f64,
    /// Shape of the learning rate after warm-up.
    pub lr_schedule: LrSchedule,
    /// Share of the scheduled steps that warm up, 0 to 1.
    #[schemars(range(min = 0, max = 1))]
    pub warmup_ratio: f64,
    /// Passes over the pairs.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Epochs that the learning-rate schedule is laid over. Absent: as epochs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub schedule_epochs: Option<usize>,
    /// Bound on optimizer steps; shortens the run and the schedule.
    #[serde(with = "or_off")]
    #[schemars(with = "Option<usize>", range(min = 1))]
    pub max_steps: Option<usize>,
    /// Pairs per optimizer step.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Tokens per forward and backward pass: memory against speed, the same result up to rounding. `auto` chooses the fastest that fits the
    /// device when a training begins (on a CPU 4096), and keeps to it. Where a device has not the memory all the same, passes are halved.
    pub micro_batch_tokens: MicroBatchTokens,
    /// Global gradient norm is clipped to this; 0 turns clipping off.
    #[schemars(range(min = 0))]
    pub max_grad_norm: f64,
    /// Longest prompt + response in tokens; longer pairs are cut. Rows beyond the model's context are refused before training.
    #[schemars(range(min = 2))]
    pub max_length: usize,
    /// What a prompt is cut to, from the left, where prompt + response are too long; where it is set, below max_length.
    #[schemars(range(min = 1))]
    pub max_prompt_length: usize,
    /// Whether each epoch visits the pairs in an order drawn from the seed.
    pub shuffle: bool,
    /// What the backward pass computes again in the place of keeping it: `auto` (as little as the free memory allows), true (all
    /// but each block's input), false (nothing). The result is the same, bit for bit.
    pub recompute: Recompute,
    /// What the host keeps for a GPU: `auto` (the optimizer's state and the f32 masters, where they do not fit), `none`, or
    /// `optimizer`. Absent: auto.
    #[serde(skip_serializing_if = "Offload::is_auto")]
    pub offload: Offload,
    /// What each of several ranks holds by itself (ZeRO): 0 all; 1 its share of the optimizer's state and of the f32 masters; 2 of the
    /// gradients too; 3 of the weights too, which are gathered block by block. The result is the same, and so are checkpoints.
    /// Absent: 1.
    #[serde(skip_serializing_if = "ZeroStage::is_default")]
    pub zero: ZeroStage,
    /// Steps between checkpoints; 0: one at the end only.
    pub checkpoint_every: usize,
    /// Writes the first step's unclipped gradients to `gradients_step_1.safetensors`.
    pub save_initial_gradients: bool,
    /// Data sets, each a file or a table {path, layout, weight, columns, max_rows}; the command's flag wins over them. A run makes
    /// its pairs itself and takes none. Absent: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<data::WrittenEntry>")]
    pub data: Vec<DataEntry>,
    /// Which tokens the loss is taken over: those of the responses, or the prompt's as well. Absent: responses.
    #[serde(skip_serializing_if = "LossTokens::is_responses")]
    pub loss_tokens: LossTokens,
    /// Whether a response that the chat template does not end gets an end token behind it. Absent: true.
    #[serde(skip_serializing_if = "is_true")]
    pub end_token: bool,
    /// An adapter is trained in the place of all parameters. Absent: all parameters are trained.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraSettings>,
}

impl Default for TrainSettings {
    fn default() -> Self {
        TrainSettings {
            loss: LossKind::Gpo,
            beta: 0.001,
            target_clamp: None,
            label_smoothing: 0.0,
            length_normalized: false,
            sft_weight: 0.0,
            simpo_gamma: 0.5,
            reference: ReferenceRule::Previous,
            eta: None,
            rho: None,
            history: None,
            history_weights: None,
            pair_weight: PairWeight::Equal,
            desirable_weight: None,
            undesirable_weight: None,
            clip: None,
            clip_high: None,
            kl_weight: None,
            drift_threshold: None,
            drift_strength: None,
            optimizer: OptimizerKind::RmsProp,
            rmsprop_alpha: 0.99,
            epsilon: 1e-8,
            momentum: 0.0,
            centered: false,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            weight_decay: 0.0,
            learning_rate: 5e-7,
            lr_schedule: LrSchedule::Linear,
            warmup_ratio: 0.1,
            epochs: 1,
            schedule_epochs: None,
            max_steps: None,
            batch_size: 64,
            micro_batch_tokens: MicroBatchTokens::default(),
            max_grad_norm: 1.0,
            max_length: 1024,
            max_prompt_length: 512,
            shuffle: true,
            recompute: Recompute::Auto,
            offload: Offload::Auto,
            zero: ZeroStage::default(),
            checkpoint_every: 200,
            save_initial_gradients: false,
            data: Vec::new(),
            loss_tokens: LossTokens::Responses,
            end_token: true,
            lora: None,
        }
    }
}

impl TrainSettings {
    /// How many of the last policies the loss reads, the iteration's own among them.
    pub fn history(&self) -> usize {
        self.history.unwrap_or(1)
    }

    /// How far a token's ratio may go below and above 1 before it is clipped.
    pub fn clip_range(&self) -> (f64, f64) {
        self.example_keys().clip_range()
    }

    /// What the divergence from the reference is multiplied by.
    pub fn kl_weight(&self) -> f64 {
        self.example_keys().kl_weight()
    }

    /// The drift, in nats, up to which nothing is done about it.
    pub fn drift_threshold(&self) -> f64 {
        self.example_keys().drift_threshold()
    }

    /// How strongly axes that have grown are held back.
    pub fn drift_strength(&self) -> f64 {
        self.example_keys().drift_strength()
    }

    fn example_keys(&self) -> ExampleKeys {
        ExampleKeys {
            loss: self.loss,
            pair_weight: self.pair_weight,
            sft_weight: self.sft_weight,
            length_normalized: self.length_normalized,
            loss_tokens: self.loss_tokens,
            desirable_weight: self.desirable_weight,
            undesirable_weight: self.undesirable_weight,
            clip: self.clip,
            clip_high: self.clip_high,
            kl_weight: self.kl_weight,
            drift_threshold: self.drift_threshold,
            drift_strength: self.drift_strength,
        }
    }

    /// Bytes of optimizer state of a trained tensor with `numbers` numbers.
    pub fn state_bytes(&self, numbers: u64) -> u64 {
        let tensors = match self.optimizer {
            OptimizerKind::AdamW | OptimizerKind::AdamW8Bit => 2,
            OptimizerKind::RmsProp => 1 + u64::from(self.momentum > 0.0) + u64::from(self.centered),
            OptimizerKind::RmsProp8Bit => 1,
        };
        let each = match self.optimizer.is_eight_bit() && numbers >= eight_bit::LEAST_NUMBERS as u64 {
            true => numbers + 4 * numbers.div_ceil(eight_bit::BLOCK as u64),
            false => 4 * numbers,
        };
        tensors * each
    }

    /// Epochs that the learning-rate schedule is laid over.
    pub(crate) fn scheduled_epochs(&self) -> usize {
        self.schedule_epochs.unwrap_or(self.epochs)
    }

    /// Steps between checkpoints, `None` when only the end is kept.
    pub(crate) fn checkpoint_interval(&self) -> Option<usize> {
        (self.checkpoint_every > 0).then_some(self.checkpoint_every)
    }
}

fn is_true(value: &bool) -> bool {
    *value
}

#[cfg(test)]
mod tests;
