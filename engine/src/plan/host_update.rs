//! What an optimizer step on the host adds to a training step (`train.offload`), by counted bytes and assumed rates.
//!
//! Gradients of a step come over the bus and rounded weights go back while the host updates, so that the longest of the three counts.
//! Sums of gradients that are the host's cross the bus beside the backward passes; what these don't hide is counted too.

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_trainer::{StatePlace, TrainSettings};

/// Bytes a second of the host's memory: a server's, half of what its channels give.
const MEMORY: f64 = 1.5e11;
/// Bytes a second of the bus each way: PCIe 5 with 16 lanes, from and to page-locked memory.
const BUS: f64 = 5.0e10;

/// Seconds of the update after the backward passes.
pub(super) fn update_seconds(numbers: u64, settings: &TrainSettings, place: StatePlace, dtype: DType) -> f64 {
    let (numbers, copy) = (numbers as f64, dtype.size_in_bytes() as f64);
    let state = settings.state_bytes(numbers as u64) as f64;
    // Read and written: masters and state; the rounded copy goes into a buffer, and from there over the bus.
    let update = 2.0 * (4.0 * numbers + state) + 2.0 * copy * numbers + 4.0 * numbers;
    match place {
        StatePlace::Device => 0.0,
        // The gradient comes into a buffer first.
        StatePlace::Host => {
            let down = 4.0 * numbers / BUS;
            ((update + 4.0 * numbers) / MEMORY).max(down).max(copy * numbers / BUS)
        }
        // And is read once more, for its norm.
        StatePlace::HostWithGradients => 4.0 * numbers / MEMORY + (update / MEMORY).max(copy * numbers / BUS),
    }
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
        let (policy, settings) = (Architecture::named("llama-3-8b").unwrap(), TrainSettings::default());
        let (passes, flops, product) = (2.0 * 5.168, 2.0 * 2.2257e15, 751.0e12);
        let numbers = policy.parameter_count() as u64;
        for (place, least) in [(StatePlace::Host, 0.48), (StatePlace::HostWithGradients, 0.48)] {
            let update = update_seconds(numbers, &settings, place, DType::BF16);
            let exposed = 6.0 * exposed_seconds(&policy, place, 0.75 * passes / 6.0);
            let share = flops / (passes + update + exposed) / product;
            assert!(update > 0.5 && update < 2.0 && exposed == 0.0, "{place:?}: {update} {exposed}");
            assert!(share > least && share < 0.566, "{place:?}: {share}");
        }
        assert_eq!(update_seconds(numbers, &settings, StatePlace::Device, DType::BF16), 0.0);
        // Micro-batches of 2,048 tokens would wait for the bus.
        assert!(exposed_seconds(&policy, StatePlace::HostWithGradients, 0.16) > 0.3);
    }
}
