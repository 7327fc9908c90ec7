//! What `micro_batch_tokens = "auto"` takes: the fastest size of a pass that fits, as a training itself chooses it of the memory that is
//! free then. Here every row is as long as the recipe allows.

use selfplay_trainer::TrainSettings;
use selfplay_trainer::step_cost::{PASS_ON_CPU, PASS_SIZES, StepWork};

use super::memory::{self, Models};

/// Sets the tokens of a pass where the settings leave them open; what they are. `memory` is the device's, where it is known.
pub(crate) fn settle(
    models: &Models<'_>,
    settings: &mut TrainSettings,
    memory: Option<u64>,
) -> Option<usize> {
    if settings.micro_batch_tokens.number().is_some() {
        return None;
    }
    let tokens = match memory {
        _ if !models.on_gpu() => PASS_ON_CPU,
        None => settings.micro_batch_tokens.or_standard(),
        Some(memory) => fastest(models, settings, memory),
    };
    settings.micro_batch_tokens = tokens.into();
    Some(tokens)
}

/// The least where none fits.
fn fastest(models: &Models<'_>, settings: &TrainSettings, memory: u64) -> usize {
    let sized = |tokens: usize| TrainSettings { micro_batch_tokens: tokens.into(), ..settings.clone() };
    let trained = memory::trained_numbers(models.policy, settings);
    let pair = memory::longest_pair(settings);
    let work = StepWork {
        shape: models.policy,
        batch: settings.batch_size.saturating_mul(pair),
        context: pair as f64 / 2.0,
        weight_bytes: models.policy_weights(),
        trained,
        host_bytes: 0,
    };
    let found = work.fastest(|tokens| {
        let settings = sized(tokens);
        let need = memory::training(models, &settings, Some(memory)).total();
        (need <= memory).then(|| memory::keep_plan(models, &settings, Some(memory)))
    });
    found.unwrap_or(PASS_SIZES[0])
}

#[cfg(test)]
mod tests {
    use selfplay_trainer::MicroBatchTokens;

    use super::*;
    use crate::device::DeviceChoice;
    use crate::plan::memory::tests::{footprint, recipe, tiny};

    #[test]
    fn auto_is_settled_by_the_memory_and_a_number_stays() {
        let (policy, preference) = (tiny(), footprint());
        let recipe =
            recipe(&["train.micro_batch_tokens=auto", "train.batch_size=64", "train.max_length=512"]);
        assert_eq!(recipe.train.micro_batch_tokens, MicroBatchTokens::Auto);
        let on = |device, memory| {
            let models = Models::of(&recipe, device, &policy, &preference);
            let mut settings = recipe.train.clone();
            let tokens = settle(&models, &mut settings, memory).unwrap();
            assert_eq!(settings.micro_batch_tokens, MicroBatchTokens::Most(tokens));
            assert_eq!(settle(&models, &mut settings, memory), None);
            (tokens, memory::training(&models, &settings, memory).total())
        };
        assert_eq!(on(DeviceChoice::Cpu, Some(1 << 40)).0, PASS_ON_CPU);
        assert_eq!(on(DeviceChoice::Cuda(0), None).0, 16_384);
        let (most, need) = on(DeviceChoice::Cuda(0), Some(1 << 45));
        // The whole batch of 64 pairs of 1,024 tokens.
        assert_eq!(most, 65_536);
        assert_eq!(on(DeviceChoice::Cuda(0), Some(1)).0, PASS_SIZES[0]);
        // With less than that smaller passes fit, down to the least.
        let mut last = most;
        for memory in (1..20).rev().map(|part| need * part / 20) {
            let (tokens, bytes) = on(DeviceChoice::Cuda(0), Some(memory));
            assert!(bytes <= memory || tokens == PASS_SIZES[0], "{tokens} of {memory}");
            last = last.min(tokens);
        }
        assert_eq!(last, PASS_SIZES[0]);
    }
}
