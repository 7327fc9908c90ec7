//! While candidates are compared.

use super::breakdown::MemoryBreakdown;
use super::models::Models;
use super::passes::PROGRAM;
use crate::recipe::Recipe;

/// While candidates are compared and the policy is not there.
pub(super) fn scoring(models: &Models<'_>, recipe: &Recipe) -> MemoryBreakdown {
    let mut bytes = MemoryBreakdown::default();
    bytes.add("preference model", models.preference_weights());
    bytes.add("a pass of scoring", scoring_pass(models, recipe));
    bytes.add("the program", PROGRAM);
    bytes
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

pub(super) fn scoring_pass(models: &Models<'_>, recipe: &Recipe) -> u64 {
    models.preference.pass_bytes(scoring_tokens(recipe), models.preference_dtype)
}
