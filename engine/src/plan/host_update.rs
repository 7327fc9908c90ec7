//! What an optimizer step on the host adds to a training step (`train.offload`), by counted bytes and assumed rates.
//!
//! Gradients of a step come over the bus and rounded weights go back while the host updates, so that the longest of the three counts.
//! On one GPU the update runs beside passes (`trainer/src/offload/updates.rs`): with clipping beside the first forward of the next
//! step, which waits for each block's weights; without, beside the last backward, which gives out the blocks one by one, and only
//! the embedding comes after it. Sums of gradients that are the host's cross the bus beside the backward passes; what these don't
//! hide is counted too.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_trainer::{StatePlace, TrainSettings};

/// Bytes a second of the host's memory: a server's, half of what its channels give.
const MEMORY: f64 = 1.5e11;
/// Bytes a second of the bus each way: PCIe 5 with 16 lanes, from and to page-locked memory.
const BUS: f64 = 5.0e10;

/// A training step of one GPU whose host updates.
#[derive(Clone, Copy)]
pub(super) struct StepOnHost<'a> {
    pub(super) policy: &'a Architecture,
    pub(super) train: &'a TrainSettings,
    /// Numbers that it moves.
    pub(super) numbers: u64,
    pub(super) place: StatePlace,
    pub(super) dtype: DType,
    pub(super) micro_batches: f64,
    /// Seconds of the forward of a micro-batch.
    pub(super) forward: f64,
    /// Seconds of its backward, with what it computes again.
    pub(super) backward: f64,
}

/// Seconds of the update alone.
pub(super) fn update_seconds(numbers: u64, settings: &TrainSettings, place: StatePlace, dtype: DType) -> f64 {
    let (numbers, copy) = (numbers as f64, dtype.size_in_bytes() as f64);
    let state = settings.state_bytes(numbers as u64) as f64;
    // Read and written: masters and state; the rounded copy goes into a buffer, and from there over the bus; the gradient is read.
    let update = 2.0 * (4.0 * numbers + state) + 2.0 * copy * numbers + 4.0 * numbers;
    match place {
        StatePlace::Device => 0.0,
        // The gradient comes into a buffer first.
        StatePlace::Host => {
            let down = 4.0 * numbers / BUS;
            ((update + 4.0 * numbers) / MEMORY).max(down).max(copy * numbers / BUS)
        }
        StatePlace::HostWithGradients => (update / MEMORY).max(copy * numbers / BUS),
    }
}

/// Seconds that the host adds to a step of one GPU: of the update what no pass hides, and what the blocks' sums take longer than the
/// backward passes.
pub(super) fn added_seconds(step: &StepOnHost<'_>) -> f64 {
    let StepOnHost { policy, train, numbers, place, dtype, .. } = *step;
    let update = update_seconds(numbers, train, place, dtype);
    let layers = policy.num_layers.max(1) as f64;
    // Work in as many parts as there are blocks, behind other work that gives them out, or before work that waits for them.
    let beside = |update: f64, pass: f64| update.max(pass) + update.min(pass) / layers - pass;
    let hidden = match train.max_grad_norm > 0.0 {
        true => beside(update, step.forward),
        false => {
            let table = (policy.vocab_size * policy.hidden_size) as f64;
            let last = if train.lora.is_some() { 0.0 } else { (table / numbers.max(1) as f64).min(1.0) };
            beside(update * (1.0 - last), step.backward) + update * last
        }
    };
    let sums = match train.lora {
        None => step.micro_batches * exposed_seconds(policy, place, step.backward),
        // An adapter's sums are small.
        Some(_) => 0.0,
    };
    if place.is_host() { hidden + sums } else { 0.0 }
}

/// Seconds by which moving the blocks' sums takes longer than the backward of a micro-batch that takes `backward` seconds.
pub(super) fn exposed_seconds(policy: &Architecture, place: StatePlace, backward: f64) -> f64 {
    match place {
        StatePlace::Device | StatePlace::Host => 0.0,
        // Each way at the same time.
        StatePlace::HostWithGradients => (4.0 * policy.block_numbers() as f64 / BUS - backward).max(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An 8B's full fine-tuning on a card of 80 GB, 64 pairs to a step: 2 × 5.168 s of passes with all recomputed and 2.2257e15
    /// operations for 32 pairs (benches/runs/2026-11-28-h200/train.json; an H100 multiplies as fast), of which the backward of one of
    /// six micro-batches takes three quarters.
    #[test]
    fn an_8b_on_80_gb_reaches_its_share() {
        let policy = Architecture::named("llama-3-8b").unwrap();
        let (passes, flops, product) = (2.0 * 5.168, 2.0 * 2.2257e15, 751.0e12);
        let numbers = policy.parameter_count() as u64;
        for (place, max_grad_norm, whole, least) in [
            (StatePlace::Host, 1.0, 1.50, 0.515),
            (StatePlace::HostWithGradients, 1.0, 1.28, 0.525),
            (StatePlace::Host, 0.0, 1.50, 0.555),
            (StatePlace::HostWithGradients, 0.0, 1.28, 0.560),
        ] {
            let train = TrainSettings { max_grad_norm, ..TrainSettings::default() };
            let step = StepOnHost {
                policy: &policy,
                train: &train,
                numbers,
                place,
                dtype: DType::BF16,
                micro_batches: 6.0,
                forward: 0.25 * passes / 6.0,
                backward: 0.75 * passes / 6.0,
            };
            let update = update_seconds(numbers, &train, place, DType::BF16);
            assert!((update - whole).abs() < 0.01, "{place:?}: {update}");
            let added = added_seconds(&step);
            let share = flops / (passes + added) / product;
            assert!(share > least && share < least + 0.01, "{place:?} {max_grad_norm}: {added} {share}");
            assert!(added < update && added > update / 100.0);
            assert_eq!(added_seconds(&StepOnHost { place: StatePlace::Device, ..step }), 0.0);
            // Short passes hide little.
            let short = StepOnHost { forward: 1e-3, backward: 1e-3, place: StatePlace::Host, ..step };
            let all = update_seconds(numbers, &train, StatePlace::Host, DType::BF16);
            assert!((added_seconds(&short) / all - 1.0).abs() < 0.01);
        }
        // Micro-batches of 2,048 tokens would wait for the bus.
        assert!(exposed_seconds(&policy, StatePlace::HostWithGradients, 0.16) > 0.3);
    }
}
