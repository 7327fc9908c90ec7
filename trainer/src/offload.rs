//! Where a training's state is: on the device, or on the host (`train.offload`).

use selfplay_model::decoder::{KeepPlan, head_bytes};
use selfplay_model::{Decoder, gpu};

use crate::TrainError;
use crate::settings::{Offload, TrainSettings};
use crate::trained::trained;

/// Whether the optimizer's state and the f32 masters are the host's. With `auto` they are where they do not fit into the
/// device beside gradients and the least that a pass of the largest micro-batch keeps; says so.
///
/// # Errors
/// The error of the device that is asked for its memory.
pub(crate) fn is_offloaded(decoder: &Decoder, settings: &TrainSettings) -> Result<bool, TrainError> {
    match settings.offload {
        Offload::None => return Ok(false),
        Offload::Optimizer => return Ok(true),
        Offload::Auto => {}
    }
    let Some(memory) = gpu::memory(decoder.device())? else { return Ok(false) };
    let need = StateNeed::of(decoder, settings);
    // As `ActivationMemory` leaves it to the products and the pool.
    let free = (memory.free as u64).saturating_sub(memory.total as u64 / 32);
    let offloads = need.state + need.rest > free;
    if offloads {
        tracing::info!(
            "the optimizer's state and the f32 masters ({:.1} GB) are kept in the host's memory: beside them the device has room for {:.1} GB of the {:.1} GB that a step needs",
            need.state as f64 / 1e9,
            free.saturating_sub(need.state) as f64 / 1e9,
            need.rest as f64 / 1e9,
        );
    }
    Ok(offloads)
}

/// Bytes of a training beside its weights.
struct StateNeed {
    /// State and masters.
    state: u64,
    /// Gradients, a pass, a chunk of the head.
    rest: u64,
}

impl StateNeed {
    fn of(decoder: &Decoder, settings: &TrainSettings) -> Self {
        let (shape, dtype) = (decoder.architecture(), decoder.dtype());
        let numbers = trained(decoder.parameters()).map(|(_, p)| p.value.elem_count() as u64).sum::<u64>();
        let masters = if dtype.size_in_bytes() < 4 { 4 } else { 0 };
        let tokens = settings.micro_batch_tokens as u64;
        let pass = tokens * (shape.training_values(KeepPlan::LEAST) * dtype.size_in_bytes()) as u64;
        let logits = head_bytes(shape.vocab_size, usize::MAX, dtype, true);
        Self { state: numbers * masters + settings.state_bytes(numbers), rest: 4 * numbers + pass + logits }
    }
}
