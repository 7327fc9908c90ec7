//! What a training's passes make, whatever the state takes beside them.

use selfplay_model::decoder::{KeepPlan, head_bytes};
use selfplay_model::gpu::HopperKernels;
use selfplay_model::linear::NF4_PANEL;
use selfplay_model::ops::attention::hopper_backward_bytes;
use selfplay_records::ExampleKind;
use selfplay_trainer::TrainSettings;

use super::models::Models;

/// Code, threads' stacks, tokenizer: the memory of an idle process.
pub(super) const PROGRAM: u64 = 32 << 20;

/// What is freed and not given back yet: measured peaks lie between none and a ninth above the rest.
pub(super) const SLACK: u64 = 20;

/// Of a device's memory what a training may plan with: a GPU's products and its pool take some beside what is counted, and
/// so does a CPU's allocator.
pub(super) fn usable(models: &Models<'_>, memory: u64) -> u64 {
    if models.on_gpu() { memory - memory / 32 } else { memory / (SLACK + 1) * SLACK }
}

/// What a training step makes beside what it keeps of the blocks, and the program.
pub(in crate::plan) fn passing(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    let decoded = if models.policy_quantized { decoded_maps(models) } else { 0 };
    head_chunk(models, settings) + attention_sums(models, settings) + decoded + PROGRAM
}

/// What attention's backward adds its queries' gradients up in, where the kernel that does is chosen: by `SELFPLAY_HOPPER`, or by what this
/// machine's GPU has shown.
pub(super) fn attention_sums(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    // What is wrong with the variable is reported where a GPU is used.
    let (policy, tokens) = (models.policy, pass_tokens(settings));
    let is_chosen = |kernels: HopperKernels| kernels.attention_backward(policy.head_dim);
    if !models.on_gpu() || !HopperKernels::on_hopper().is_ok_and(is_chosen) {
        return 0;
    }
    hopper_backward_bytes(policy.num_heads, policy.head_dim, models.policy_dtype, tokens)
}

/// What a product with a map in four bits decodes: on a CPU a panel of it, on a GPU the whole of the largest one, in f32 and in
/// the dtype of computation, with the levels that its codes mean.
pub(super) fn decoded_maps(models: &Models<'_>) -> u64 {
    let largest = models.policy.largest_map();
    match models.on_gpu() {
        true => largest * (4 + 4 + models.policy_dtype.size_in_bytes() as u64),
        false => 4 * largest.min(NF4_PANEL as u64),
    }
}

/// Tokens of the longest pair: two responses that leave the prompt next to nothing.
pub(crate) fn longest_pair(settings: &TrainSettings) -> usize {
    settings.max_length.saturating_mul(2)
}

/// Tokens of a forward pass at most: a micro-batch, or one pair that is longer; never more than a batch of pairs.
pub(crate) fn pass_tokens(settings: &TrainSettings) -> usize {
    let pair = longest_pair(settings);
    let most = settings.micro_batch_tokens.or_standard().max(pair);
    match settings.loss.examples() {
        // A batch of groups has as many responses as are sampled, each a pass of its own at most.
        ExampleKind::Groups => most,
        _ => most.min(settings.batch_size.saturating_mul(pair)),
    }
}

/// Kept for the backward pass of the largest micro-batch, and made in it.
pub(in crate::plan) fn activations(models: &Models<'_>, settings: &TrainSettings, keep: KeepPlan) -> u64 {
    let token = models.policy.training_values(keep) as u64;
    let width = models.policy_dtype.size_in_bytes() as u64;
    (pass_tokens(settings) as u64).saturating_mul(token * width)
}

/// Logits of the output head with their gradient.
pub(super) fn head_chunk(models: &Models<'_>, settings: &TrainSettings) -> u64 {
    head_bytes(models.policy.vocab_size, pass_tokens(settings), models.policy_dtype, models.on_gpu())
}
