//! What a training holds of the model between passes, and whose memory has it.

use selfplay_model::Architecture;
use selfplay_model::adapter::AdapterConfig;
use selfplay_model::decoder::KeepPlan;
use selfplay_trainer::{BLOCKS_THERE, Offload, StatePlace, TrainSettings};

use super::breakdown::MemoryBreakdown;
use super::models::Models;
use super::passes::{activations, passing, usable};
use crate::plan::state_bytes::StateBytes;

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

/// What a training holds of the model beside its passes, with the state in `place`: of it what is the device's.
pub(in crate::plan) fn state_bytes(
    models: &Models<'_>,
    settings: &TrainSettings,
    place: StatePlace,
) -> StateBytes {
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
pub(super) fn beside_activations(
    models: &Models<'_>,
    settings: &TrainSettings,
    place: StatePlace,
) -> MemoryBreakdown {
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
pub(in crate::plan) fn optimizer_title(settings: &TrainSettings) -> &'static str {
    if settings.optimizer.is_eight_bit() { "optimizer state, 8 bits" } else { "optimizer state, f32" }
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
