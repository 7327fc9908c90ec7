//! What a recipe will need of memory and disk, from the models' shapes alone.
//!
//! Counted: weights, their f32 masters where they are 16 bits wide, gradients, optimizer state, what the backward
//! pass keeps and makes, one chunk of the output head, pages of keys and values, a step of sampling, a pass of scoring,
//! the program itself, and in training on a CPU the allocator's slack. Not counted: the rows in memory. `tests/plan_memory.rs` holds the plan of
//! a training against its peak.

use std::path::Path;

use candle_core::DType;
use selfplay_model::adapter::AdapterConfig;
use selfplay_model::architecture::nf4_bytes;
use selfplay_model::decoder::{KeepPlan, head_bytes};
use selfplay_model::linear::NF4_PANEL;
use selfplay_model::weights::WeightFiles;
use selfplay_model::{Architecture, ModelError};
use selfplay_records::ExampleKind;
use selfplay_sampler::{Capacity, SampleSettings};
use selfplay_scorer::Footprint;
use selfplay_trainer::{BLOCKS_THERE, Offload, Recompute, StatePlace, TrainSettings};

use super::state_bytes::StateBytes;
use crate::device::DeviceChoice;
use crate::recipe::{Recipe, WeightDType};

/// Code, threads' stacks, tokenizer: the memory of an idle process.
const PROGRAM: u64 = 32 << 20;

/// The shape of the policy in `folder`: that of its config.json, with an output head of its own where the weights are there
/// and have one though config.json ties it to the embedding.
pub(crate) fn policy_shape(folder: &Path) -> Result<Architecture, ModelError> {
    let mut shape = Architecture::load(folder)?;
    // Of a hub's model no weights are fetched; what is wrong with weights is reported where they are read.
    let has_own_head = WeightFiles::open(folder).and_then(|files| files.has_own_output_head(&shape));
    if has_own_head.unwrap_or(false) {
        shape.tie_embeddings = false;
    }
    Ok(shape)
}

/// Bytes by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryBreakdown {
    pub(crate) items: Vec<MemoryItem>,
}

/// One purpose and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemoryItem {
    pub(crate) what: &'static str,
    pub(crate) bytes: u64,
}

impl MemoryBreakdown {
    pub(super) fn add(&mut self, what: &'static str, bytes: u64) {
        self.items.push(MemoryItem { what, bytes });
    }

    pub(crate) fn total(&self) -> u64 {
        self.items.iter().fold(0, |sum, item| sum.saturating_add(item.bytes))
    }
}

/// The two models of a recipe, and where and in what they are computed.
#[derive(Clone, Copy)]
pub(crate) struct Models<'a> {
    pub(crate) policy: &'a Architecture,
    pub(crate) preference: &'a Footprint,
    pub(crate) policy_dtype: DType,
    /// Whether the policy's maps are kept in four bits.
    pub(crate) policy_quantized: bool,
    pub(crate) preference_dtype: DType,
    pub(crate) device: DeviceChoice,
}

impl<'a> Models<'a> {
    /// The models of a recipe on a device.
    pub(crate) fn of(
        recipe: &Recipe,
        device: DeviceChoice,
        policy: &'a Architecture,
        preference: &'a Footprint,
    ) -> Self {
        let stored = policy.stored_dtype.map(|dtype| dtype.dtype());
        let policy_dtype = computed_in(stored, recipe.policy.dtype.map(WeightDType::to_candle), device);
        let preference_dtype =
            computed_in(preference.stored_dtype, recipe.score.settings.kind.dtype(), device);
        let policy_quantized = recipe.policy.quantize.is_some();
        Self { policy, preference, policy_dtype, policy_quantized, preference_dtype, device }
    }

    fn on_gpu(&self) -> bool {
        self.device != DeviceChoice::Cpu
    }

    /// Bytes of the policy's weights.
    pub(crate) fn policy_weights(&self) -> u64 {
        if self.policy_quantized {
            return self.policy.quantized_bytes(self.policy_dtype, self.on_gpu());
        }
        self.policy.parameter_bytes(self.policy_dtype)
    }

    /// Bytes of the preference model's weights.
    pub(crate) fn preference_weights(&self) -> u64 {
        self.preference.weight_bytes(self.preference_dtype, self.on_gpu())
    }

    /// The blocks' maps in E4M3, a byte a number, with a scale for each output.
    pub(crate) fn fp8_maps(&self) -> u64 {
        self.policy.map_numbers() + 4 * self.policy.map_outputs()
    }

    /// The packed copies that a CPU samples with: maps of four bits as such, with scales of 32 bits.
    fn packed_weights(&self) -> u64 {
        match self.policy_quantized {
            true => nf4_bytes(self.policy.map_numbers(), true) + self.policy.head_bytes(self.policy_dtype),
            false => self.policy_weights(),
        }
    }
}

/// f32 on the CPU; on CUDA the recipe's dtype, else the stored one.
fn computed_in(stored: Option<DType>, asked: Option<DType>, device: DeviceChoice) -> DType {
    match device {
        DeviceChoice::Cpu => DType::F32,
        DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank => asked.or(stored).unwrap_or(DType::F32),
    }
}

/// Phases of an iteration, by what is in memory at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The preference model beside the policy.
    SamplingAndScoring,
    /// Where the two do not fit together: the policy alone.
    Sampling,
    /// The preference model alone.
    Scoring,
    Training,
}

impl Phase {
    /// In a sentence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SamplingAndScoring => "sampling and scoring",
            Self::Sampling => "sampling",
            Self::Scoring => "scoring",
            Self::Training => "training",
        }
    }
}

/// The memory of a phase.
pub(crate) struct Need {
    pub(crate) phase: Phase,
    pub(crate) bytes: MemoryBreakdown,
}

/// All phases, in their order. `memory` is the memory of the device, if known: on a GPU keys and values take the rest of
/// it, and the models are in memory one after the other if both do not fit.
pub(crate) fn needs(models: &Models<'_>, recipe: &Recipe, memory: Option<u64>) -> Vec<Need> {
    let need = |phase, bytes| Need { phase, bytes };
    let both = sampling(models, recipe, true, memory);
    let take_turns = models.on_gpu() && memory.is_some_and(|memory| both.total() > memory);
    let mut needs = if take_turns {
        vec![
            need(Phase::Sampling, sampling(models, recipe, false, memory)),
            need(Phase::Scoring, scoring(models, recipe)),
        ]
    } else {
        vec![need(Phase::SamplingAndScoring, both)]
    };
    needs.push(need(Phase::Training, training(models, &recipe.train, memory)));
    needs
}

/// While a policy trains; `memory` is what the device has, if known, and decides what is kept with `train.recompute = "auto"`.
pub(crate) fn training(
    models: &Models<'_>,
    settings: &TrainSettings,
    memory: Option<u64>,
) -> MemoryBreakdown {
    let mut bytes = beside_activations(models, settings, state_place(models, settings, memory));
    bytes.add(
        "kept for the backward pass",
        activations(models, settings, keep_plan(models, settings, memory)),
    );
    bytes.add("one chunk of the output head", head_chunk(models, settings));
    if models.policy_quantized {
        bytes.add("maps that are decoded", decoded_maps(models));
    }
    bytes.add("the program", PROGRAM);
    if !models.on_gpu() {
        bytes.add("the allocator's slack", bytes.total() / SLACK);
    }
    bytes
}

/// What is freed and not given back yet: measured peaks lie between none and a ninth above the rest.
const SLACK: u64 = 20;

/// Where a training's state goes. With `auto` the host keeps what the device has no room for, the optimizer's state and the f32
/// masters before the gradients; where the device's memory is not known here, nothing.
pub(crate) fn state_place(models: &Models<'_>, settings: &TrainSettings, memory: Option<u64>) -> StatePlace {
    match settings.offload {
        _ if !models.on_gpu() => StatePlace::Device,
        Offload::None => StatePlace::Device,
        Offload::Optimizer => StatePlace::Host,
        Offload::OptimizerAndGradients => StatePlace::HostWithGradients,
        Offload::Auto => {
            let Some(memory) = memory else { return StatePlace::Device };
            let least = activations(models, settings, KeepPlan::LEAST) + passing(models, settings);
            let fits =
                |place| beside_activations(models, settings, place).total() + least <= usable(models, memory);
            if fits(StatePlace::Device) {
                StatePlace::Device
            } else if fits(StatePlace::Host) || blocks_there(models, settings).is_none() {
                StatePlace::Host
            } else {
                StatePlace::HostWithGradients
            }
        }
    }
}

/// Numbers of gradients that the device has where the host keeps the blocks'; `None` where that is all of them.
fn blocks_there(models: &Models<'_>, settings: &TrainSettings) -> Option<u64> {
    let trained = trained_numbers(models.policy, settings);
    let layers = models.policy.num_layers as u64;
    // An adapter's numbers are the blocks'.
    let blocks = if settings.lora.is_some() { trained } else { models.policy.block_numbers() };
    let there = blocks.div_ceil(layers.max(1)) * BLOCKS_THERE as u64;
    (there < blocks).then(|| trained - blocks + there)
}

/// Bytes that a training keeps in the host's memory for a device.
pub(crate) fn offloaded_bytes(models: &Models<'_>, settings: &TrainSettings, memory: Option<u64>) -> u64 {
    let trained = trained_numbers(models.policy, settings);
    let state = 4 * trained + settings.state_bytes(trained);
    match state_place(models, settings, memory) {
        StatePlace::Device => 0,
        StatePlace::Host => state,
        StatePlace::HostWithGradients => {
            let blocks = if settings.lora.is_some() { trained } else { models.policy.block_numbers() };
            state + 4 * blocks
        }
    }
}

/// Of a device's memory what a training may plan with: a GPU's products and its pool take some beside what is counted, and
/// so does a CPU's allocator.
pub(super) fn usable(models: &Models<'_>, memory: u64) -> u64 {
    if models.on_gpu() { memory - memory / 32 } else { memory / (SLACK + 1) * SLACK }
}

/// What a training holds of the model beside its passes, with the state in `place`: of it what is the device's.
pub(super) fn state_bytes(models: &Models<'_>, settings: &TrainSettings, place: StatePlace) -> StateBytes {
    let offloaded = place.is_host();
    let trained = trained_numbers(models.policy, settings);
    let width = models.policy_dtype.size_in_bytes() as u64;
    let summed = match place {
        StatePlace::HostWithGradients => blocks_there(models, settings).unwrap_or(trained),
        StatePlace::Device | StatePlace::Host => trained,
    };
    StateBytes {
        weights: models.policy_weights(),
        adapter: if settings.lora.is_some() { trained * width } else { 0 },
        masters: if width < 4 && !offloaded { trained * 4 } else { 0 },
        gradients: summed * 4,
        optimizer: if offloaded { 0 } else { settings.state_bytes(trained) },
    }
}

/// Weights, gradients; masters and the optimizer's state: of them what is the device's.
fn beside_activations(models: &Models<'_>, settings: &TrainSettings, place: StatePlace) -> MemoryBreakdown {
    let offloaded = place.is_host();
    let state = state_bytes(models, settings, place);
    let mut bytes = MemoryBreakdown::default();
    bytes.add("weights", state.weights);
    if settings.lora.is_some() {
        bytes.add("the adapter", state.adapter);
    }
    if state.masters > 0 {
        bytes.add("f32 master weights", state.masters);
    }
    bytes.add("gradients, f32", state.gradients);
    if !offloaded {
        bytes.add(optimizer_title(settings), state.optimizer);
    }
    bytes
}

/// What the optimizer's state is called.
pub(super) fn optimizer_title(settings: &TrainSettings) -> &'static str {
    if settings.optimizer.is_eight_bit() { "optimizer state, 8 bits" } else { "optimizer state, f32" }
}

/// What the largest pass of a training keeps. With `auto` as much as fits into `memory` beside the rest; the training itself
/// asks for the memory that is free then. Where that is not known here, the least.
pub(crate) fn keep_plan(models: &Models<'_>, settings: &TrainSettings, memory: Option<u64>) -> KeepPlan {
    let state = beside_activations(models, settings, state_place(models, settings, memory)).total();
    keep_beside(models, settings, state, memory)
}

/// As [`keep_plan`] of `train.recompute = "auto"`, beside a state of so many bytes.
pub(super) fn keep_beside(
    models: &Models<'_>,
    settings: &TrainSettings,
    state: u64,
    memory: Option<u64>,
) -> KeepPlan {
    match settings.recompute {
        Recompute::Always => return KeepPlan::LEAST,
        Recompute::Never => return KeepPlan::ALL,
        Recompute::Auto => {}
    }
    let Some(memory) = memory else { return KeepPlan::LEAST };
    let free = usable(models, memory).saturating_sub(state + passing(models, settings));
    KeepPlan::fitting(models.policy, pass_tokens(settings), models.policy_dtype, free)
}

/// The part of [`training`] that no setting of a batch changes, with all that may be the host's there.
pub(crate) fn training_state(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    let place = match may_offload(models, settings) {
        true if settings.offload == Offload::Optimizer => StatePlace::Host,
        true => StatePlace::HostWithGradients,
        false => StatePlace::Device,
    };
    beside_activations(models, settings, place).total()
}

/// Whether the host may keep the optimizer's state and the masters.
pub(crate) fn may_offload(models: &Models<'_>, settings: &TrainSettings) -> bool {
    models.on_gpu() && settings.offload != Offload::None
}

/// What a training step makes beside what it keeps of the blocks, and the program.
pub(super) fn passing(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    let decoded = if models.policy_quantized { decoded_maps(models) } else { 0 };
    head_chunk(models, settings) + decoded + PROGRAM
}

/// What a product with a map in four bits decodes: on a CPU a panel of it, on a GPU the whole of the largest one, in f32 and in
/// the dtype of computation, with the levels that its codes mean.
fn decoded_maps(models: &Models<'_>) -> u64 {
    let largest = models.policy.largest_map();
    match models.on_gpu() {
        true => largest * (4 + 4 + models.policy_dtype.size_in_bytes() as u64),
        false => 4 * largest.min(NF4_PANEL as u64),
    }
}

/// Numbers that training moves: an adapter's, or all. One that the model cannot have is refused before training.
pub(crate) fn trained_numbers(policy: &Architecture, settings: &TrainSettings) -> u64 {
    let all = policy.parameter_count() as u64;
    let Some(lora) = &settings.lora else { return all };
    let config = match lora.init().folder() {
        Some(folder) => AdapterConfig::load(folder).unwrap_or_else(|_| lora.config()),
        None => lora.config(),
    };
    config.trained_numbers(policy).map_or(all, |numbers| numbers as u64)
}

/// While candidates are sampled, `beside` the preference model or not.
fn sampling(models: &Models<'_>, recipe: &Recipe, beside: bool, memory: Option<u64>) -> MemoryBreakdown {
    let limits = batch_limits(&recipe.sample, models.device);
    let mut bytes = MemoryBreakdown::default();
    bytes.add("policy", models.policy_weights());
    let is_fp8 = recipe.sample.is_fp8() && !recipe.sample.backend.is_endpoint();
    if models.on_gpu() {
        if is_fp8 {
            bytes.add("policy's maps in FP8", models.fp8_maps());
        }
    } else if is_fp8 {
        // A CPU multiplies the numbers that the codes mean.
        let head = models.policy.head_bytes(models.policy_dtype);
        bytes.add("policy, packed for small batches", 4 * models.fp8_maps() + head);
    } else {
        bytes.add("policy, packed for small batches", models.packed_weights());
    }
    if beside {
        bytes.add("preference model", models.preference_weights());
        bytes.add("a pass of scoring", scoring_pass(models, recipe));
    }
    bytes.add("a step of sampling", sampling_step(models, limits));
    if models.policy_quantized && models.on_gpu() {
        bytes.add("maps that are decoded", decoded_maps(models));
    }
    bytes.add("the program", PROGRAM);
    let left = memory.map(|memory| memory.saturating_sub(bytes.total()));
    let what = match (limits.cache_bytes, left) {
        (Some(_), _) => "keys and values",
        (None, Some(_)) => "keys and values, of what is left",
        (None, None) => "keys and values of one candidate",
    };
    bytes.add(what, key_value_pages(models, recipe, limits, left));
    bytes
}

/// While candidates are compared and the policy is not there.
fn scoring(models: &Models<'_>, recipe: &Recipe) -> MemoryBreakdown {
    let mut bytes = MemoryBreakdown::default();
    bytes.add("preference model", models.preference_weights());
    bytes.add("a pass of scoring", scoring_pass(models, recipe));
    bytes.add("the program", PROGRAM);
    bytes
}

/// An adapter as written, in f32; 0 where all parameters are trained.
pub(crate) fn adapter_folder(policy: &Architecture, recipe: &Recipe) -> u64 {
    if recipe.train.lora.is_some() { 4 * trained_numbers(policy, &recipe.train) } else { 0 }
}

/// A policy as written, in the dtype of `policy.dtype`.
pub(crate) fn policy_folder(policy: &Architecture, recipe: &Recipe) -> u64 {
    let stored = policy.stored_dtype.map_or(DType::F32, |dtype| dtype.dtype());
    policy.parameter_bytes(recipe.policy.dtype.map_or(stored, |dtype| dtype.to_candle()))
}

/// A training checkpoint: f32 weights and the optimizer's state.
pub(crate) fn checkpoint(policy: &Architecture, settings: &TrainSettings) -> u64 {
    let trained = trained_numbers(policy, settings);
    4 * trained + settings.state_bytes(trained)
}

/// Candidates of `prompts` prompts at full length: an id and a log-prob per token, and its text.
pub(crate) fn candidates(prompts: u64, recipe: &Recipe) -> u64 {
    prompts * recipe.sample.num_samples as u64 * recipe.sample.max_new_tokens as u64 * (4 + 4 + 4)
}

/// Tokens of the longest pair: two responses that leave the prompt next to nothing.
pub(crate) fn longest_pair(settings: &TrainSettings) -> usize {
    settings.max_length.saturating_mul(2)
}

/// Tokens of a forward pass at most: a micro-batch, or one pair that is longer; never more than a batch of pairs.
pub(crate) fn pass_tokens(settings: &TrainSettings) -> usize {
    let pair = longest_pair(settings);
    let most = settings.micro_batch_tokens.max(pair);
    match settings.loss.examples() {
        // A batch of groups has as many responses as are sampled, each a pass of its own at most.
        ExampleKind::Groups => most,
        _ => most.min(settings.batch_size.saturating_mul(pair)),
    }
}

/// Kept for the backward pass of the largest micro-batch, and made in it.
pub(super) fn activations(models: &Models<'_>, settings: &TrainSettings, keep: KeepPlan) -> u64 {
    let token = models.policy.training_values(keep) as u64;
    let width = models.policy_dtype.size_in_bytes() as u64;
    (pass_tokens(settings) as u64).saturating_mul(token * width)
}

/// Logits of the output head with their gradient.
fn head_chunk(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    head_bytes(models.policy.vocab_size, pass_tokens(settings), models.policy_dtype, models.on_gpu())
}

/// What bounds a sampling step and its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchLimits {
    /// Candidates at a time.
    pub(crate) rows: usize,
    /// Tokens of a step.
    pub(crate) token_budget: usize,
    /// Keys and values; `None`: what the device has left.
    pub(crate) cache_bytes: Option<u64>,
}

/// What the recipe gives, else what the device has.
pub(crate) fn batch_limits(sample: &SampleSettings, device: DeviceChoice) -> BatchLimits {
    let (rows, token_budget, cache_bytes) = match device {
        DeviceChoice::Cpu => {
            (Capacity::CPU.rows, Capacity::CPU.token_budget, Some(Capacity::CPU.cache_bytes as u64))
        }
        DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank => {
            (Capacity::GPU_ROWS, Capacity::GPU_TOKEN_BUDGET, None)
        }
    };
    BatchLimits {
        rows: sample.max_batch_rows.unwrap_or(rows),
        token_budget: sample.token_budget.unwrap_or(token_budget),
        cache_bytes: sample.cache_mib.map(|mib| (mib as u64).saturating_mul(1 << 20)).or(cache_bytes),
    }
}

/// One step beside keys and values: a block's inside, and the rows' logits with what the draw makes of them.
fn sampling_step(models: &Models<'_>, limits: BatchLimits) -> u64 {
    let BatchLimits { rows, token_budget, .. } = limits;
    models.policy.step_bytes(rows, token_budget, models.policy_dtype, models.on_gpu()) as u64
}

/// Tokens of a pass of scoring at most: a batch, or one conversation that is longer; never more than a shard.
pub(crate) fn scoring_tokens(recipe: &Recipe) -> usize {
    let sample = &recipe.sample;
    let conversation = longest_scored(recipe);
    let shard = sample.shard_prompts.saturating_mul(sample.num_samples).saturating_mul(conversation);
    recipe.score.settings.kind.pass_tokens(conversation).min(shard)
}

/// Tokens of the longest conversation that is scored.
pub(crate) fn longest_scored(recipe: &Recipe) -> usize {
    let most = recipe.sample.max_new_tokens.saturating_add(recipe.train.max_prompt_length);
    recipe.score.settings.kind.read_tokens(most)
}

fn scoring_pass(models: &Models<'_>, recipe: &Recipe) -> u64 {
    models.preference.pass_bytes(scoring_tokens(recipe), models.preference_dtype)
}

/// Keys and values of one candidate at full length with its prompt.
pub(crate) fn candidate_pages(models: &Models<'_>, recipe: &Recipe) -> u64 {
    let most = recipe.sample.max_new_tokens.saturating_add(recipe.train.max_prompt_length);
    models.policy.max_positions.min(most) as u64 * models.policy.key_value_bytes(models.policy_dtype) as u64
}

/// As many candidates as run at a time, within the recipe's bound or, where it gives none, within what is `left`; one
/// candidate is never too many.
pub(crate) fn key_value_pages(
    models: &Models<'_>,
    recipe: &Recipe,
    limits: BatchLimits,
    left: Option<u64>,
) -> u64 {
    let one = candidate_pages(models, recipe);
    let bound = limits.cache_bytes.or(left.map(|left| Capacity::gpu_cache_bytes(left as usize, 0) as u64));
    (limits.rows as u64).saturating_mul(one).min(bound.unwrap_or(one)).max(one)
}

/// Candidates at full length that run at a time: as many as the recipe or the device lets, and their pages.
pub(crate) fn rows_at_a_time(models: &Models<'_>, recipe: &Recipe, memory: Option<u64>) -> u64 {
    let limits = batch_limits(&recipe.sample, models.device);
    if limits.cache_bytes.is_none() && memory.is_none() {
        return limits.rows as u64;
    }
    let needs = needs(models, recipe, memory);
    let pages =
        needs.iter().find(|need| need.phase != Phase::Training).and_then(|need| need.bytes.items.last());
    let pages = pages.map_or(0, |item| item.bytes);
    (pages / candidate_pages(models, recipe).max(1)).clamp(1, limits.rows as u64)
}

#[cfg(test)]
pub(crate) mod tests;
