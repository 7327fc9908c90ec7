//! Bytes of what a run writes.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_trainer::TrainSettings;

use super::state::trained_numbers;
use crate::recipe::Recipe;

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
