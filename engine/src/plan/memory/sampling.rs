//! While candidates are sampled.

use selfplay_sampler::{Capacity, SampleSettings};

use super::breakdown::MemoryBreakdown;
use super::models::Models;
use super::passes::{PROGRAM, decoded_maps};
use super::scoring::scoring_pass;
use crate::device::DeviceChoice;
use crate::recipe::Recipe;

/// While candidates are sampled, `beside` the preference model or not.
pub(super) fn sampling(
    models: &Models<'_>,
    recipe: &Recipe,
    beside: bool,
    memory: Option<u64>,
) -> MemoryBreakdown {
    let mut bytes = sampling_models(models, recipe, beside);
    let limits = sampling_limits(models, recipe, beside, memory);
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

/// What is in memory before the first step.
fn sampling_models(models: &Models<'_>, recipe: &Recipe, beside: bool) -> MemoryBreakdown {
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
    bytes
}

/// What bounds a step and its cache in so much memory.
pub(super) fn sampling_limits(
    models: &Models<'_>,
    recipe: &Recipe,
    beside: bool,
    memory: Option<u64>,
) -> BatchLimits {
    let before = sampling_models(models, recipe, beside).total() + PROGRAM;
    batch_limits(models, &recipe.sample, memory.map(|memory| memory.saturating_sub(before)))
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

/// What the recipe gives, else what the device has, of whose memory `free` bytes are left for a step and its cache.
pub(crate) fn batch_limits(models: &Models<'_>, sample: &SampleSettings, free: Option<u64>) -> BatchLimits {
    let set = sample.cache_mib.map(|mib| (mib as u64).saturating_mul(1 << 20));
    let (rows, token_budget, cache_bytes) = match models.device {
        DeviceChoice::Cpu => {
            (Capacity::CPU.rows, Capacity::CPU.token_budget, Some(Capacity::CPU.cache_bytes as u64))
        }
        DeviceChoice::Cuda(_) | DeviceChoice::CudaOfRank => {
            (gpu_rows(models, sample, free, set), Capacity::GPU_TOKEN_BUDGET, None)
        }
    };
    BatchLimits {
        rows: sample.max_batch_rows.unwrap_or(rows),
        token_budget: sample.token_budget.unwrap_or(token_budget),
        cache_bytes: set.or(cache_bytes),
    }
}

/// As the sampler chooses them, by what is free and what the cache is set to, where they are known.
fn gpu_rows(models: &Models<'_>, sample: &SampleSettings, free: Option<u64>, set: Option<u64>) -> usize {
    if models.policy_quantized {
        return Capacity::GPU_ROWS;
    }
    let format = sample.kv_format(models.policy_dtype);
    let longest = sample.max_new_tokens.min(models.policy.max_positions);
    let response = Capacity::response_bytes(longest, models.policy.page_bytes(format));
    let token_budget = sample.token_budget.unwrap_or(Capacity::GPU_TOKEN_BUDGET);
    Capacity::gpu_rows(response, |rows| {
        let step = models.policy.step_bytes(rows, token_budget, models.policy_dtype, true);
        let own = free.map(|free| Capacity::gpu_cache_bytes(free as usize, step) as u64);
        [own, set].into_iter().flatten().min().unwrap_or(0) as usize
    })
}

/// One step beside keys and values: a block's inside, and the rows' logits with what the draw makes of them.
fn sampling_step(models: &Models<'_>, limits: BatchLimits) -> u64 {
    let BatchLimits { rows, token_budget, .. } = limits;
    models.policy.step_bytes(rows, token_budget, models.policy_dtype, models.on_gpu()) as u64
}

/// Keys and values of one candidate at full length with its prompt.
pub(crate) fn candidate_pages(models: &Models<'_>, recipe: &Recipe) -> u64 {
    let most = recipe.sample.max_new_tokens.saturating_add(recipe.train.max_prompt_length);
    let format = recipe.sample.kv_format(models.policy_dtype);
    models.policy.max_positions.min(most) as u64 * models.policy.key_value_bytes(format) as u64
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
