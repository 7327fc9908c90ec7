//! While a policy trains: its state, and the passes over it.

use selfplay_model::decoder::KeepPlan;
use selfplay_trainer::{Recompute, TrainSettings};

use super::breakdown::MemoryBreakdown;
use super::models::Models;
use super::passes::{
    PROGRAM, SLACK, activations, attention_sums, decoded_maps, head_chunk, pass_tokens, passing, usable,
};
use super::state::{beside_activations, state_place};

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
    let sums = attention_sums(models, settings);
    if sums > 0 {
        bytes.add("sums of attention's backward", sums);
    }
    if models.policy_quantized {
        bytes.add("maps that are decoded", decoded_maps(models));
    }
    bytes.add("the program", PROGRAM);
    if !models.on_gpu() {
        bytes.add("the allocator's slack", bytes.total() / SLACK);
    }
    bytes
}

/// What the largest pass of a training keeps. With `auto` as much as fits into `memory` beside the rest; the training itself
/// asks for the memory that is free then. Where that is not known here, the least.
pub(crate) fn keep_plan(models: &Models<'_>, settings: &TrainSettings, memory: Option<u64>) -> KeepPlan {
    let state = beside_activations(models, settings, state_place(models, settings, memory)).total();
    keep_beside(models, settings, state, memory)
}

/// As [`keep_plan`] of `train.recompute = "auto"`, beside a state of so many bytes.
pub(in crate::plan) fn keep_beside(
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
