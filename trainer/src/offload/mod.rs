//! Where a training's state is: on the device, or on the host (`train.offload`).

mod gradients;
mod pages;

use selfplay_model::decoder::{KeepPlan, Segment, head_bytes};
use selfplay_model::{Decoder, gpu};

pub use self::gradients::BatchGradients;
pub use self::pages::{BLOCKS_THERE, PagedGradients};
use crate::TrainError;
use crate::collective::Collective;
use crate::settings::{Offload, TrainSettings, ZeroStage};
use crate::trained::trained;

/// Whose memory holds what a training keeps between passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatePlace {
    /// All of it the device's.
    Device,
    /// The optimizer's state and the f32 masters the host's.
    Host,
    /// These, and the sums of the blocks' gradients, the host's.
    HostWithGradients,
}

impl StatePlace {
    /// The settings' place. With `auto` what does not fit into the device beside the least that a pass of the largest
    /// micro-batch keeps is the host's, the state before the gradients; says so.
    ///
    /// # Errors
    /// The error of the device that is asked for its memory; gradients on the host with several ranks.
    pub(crate) fn of(
        decoder: &Decoder,
        settings: &TrainSettings,
        collective: &dyn Collective,
    ) -> Result<Self, TrainError> {
        let is_alone = collective.world() == 1 && collective.parts() == 1;
        match settings.offload {
            Offload::None => return Ok(Self::Device),
            Offload::Optimizer => return Ok(Self::Host),
            Offload::OptimizerAndGradients if is_alone => return Ok(Self::HostWithGradients),
            Offload::OptimizerAndGradients => {
                return Err(TrainError::Data {
                    problem: "offload = \"optimizer+gradients\" with several ranks: their gradients are summed on the devices".into(),
                    want: "offload = \"optimizer\", or one rank".into(),
                });
            }
            Offload::Auto => {}
        }
        let Some(memory) = gpu::memory(decoder.device())? else { return Ok(Self::Device) };
        // As `ActivationMemory` leaves it to the products and the pool.
        let free = (memory.free as u64).saturating_sub(memory.total as u64 / 32);
        let mut need = StateNeed::of(decoder, settings);
        if settings.zero != ZeroStage::Off {
            need.state /= collective.world().max(1) as u64;
        }
        Ok(need.place_in(free, is_alone))
    }

    /// Whether the optimizer's state and the masters are the host's.
    pub fn is_host(self) -> bool {
        self != Self::Device
    }
}

/// Bytes of a training beside its weights.
struct StateNeed {
    /// State and masters.
    state: u64,
    /// The sums of all gradients.
    gradients: u64,
    /// Those that the device has where the host keeps the blocks'.
    paged: u64,
    /// A pass, a chunk of the head.
    pass: u64,
}

impl StateNeed {
    fn of(decoder: &Decoder, settings: &TrainSettings) -> Self {
        let (shape, dtype) = (decoder.architecture(), decoder.dtype());
        let parameters = decoder.parameters();
        let numbers = trained(parameters).map(|(_, p)| p.value.elem_count() as u64).sum::<u64>();
        let of_block = |block: Segment| {
            let ids = decoder.segment_parameters(block).into_iter().map(|id| parameters.get(id));
            ids.filter(|p| p.trainable).map(|p| p.value.elem_count() as u64).sum::<u64>()
        };
        let blocks: Vec<u64> =
            decoder.segments().filter(|segment| matches!(segment, Segment::Block(_))).map(of_block).collect();
        let there = blocks.iter().max().map_or(0, |largest| largest * BLOCKS_THERE as u64);
        let resident = numbers - blocks.iter().sum::<u64>();
        let masters = if dtype.size_in_bytes() < 4 { 4 } else { 0 };
        let tokens = settings.micro_batch_tokens as u64;
        let kept = tokens * (shape.training_values(KeepPlan::LEAST) * dtype.size_in_bytes()) as u64;
        let logits = head_bytes(shape.vocab_size, usize::MAX, dtype, true);
        Self {
            state: numbers * masters + settings.state_bytes(numbers),
            gradients: 4 * numbers,
            paged: 4 * (resident + there).min(numbers),
            pass: kept + logits,
        }
    }

    /// Where it all goes with so many bytes free on the device.
    fn place_in(&self, free: u64, is_alone: bool) -> StatePlace {
        if self.state + self.gradients + self.pass <= free {
            return StatePlace::Device;
        }
        let gigabytes = |bytes: u64| bytes as f64 / 1e9;
        if self.gradients + self.pass <= free || !is_alone || self.paged == self.gradients {
            tracing::info!(
                "the optimizer's state and the f32 masters ({:.1} GB) are kept in the host's memory: beside them the device has room for {:.1} GB of the {:.1} GB that a step needs",
                gigabytes(self.state),
                gigabytes(free.saturating_sub(self.state)),
                gigabytes(self.gradients + self.pass),
            );
            return StatePlace::Host;
        }
        tracing::info!(
            "the optimizer's state, the f32 masters and the blocks' gradients ({:.1} GB) are kept in the host's memory: the device has room for {:.1} GB, and a step with all gradients needs {:.1} GB",
            gigabytes(self.state + self.gradients - self.paged),
            gigabytes(free),
            gigabytes(self.gradients + self.pass),
        );
        StatePlace::HostWithGradients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of an 8B with RMSProp: masters and squares 64 GB, gradients 32.
    #[test]
    fn the_state_goes_before_the_gradients() {
        let need = StateNeed { state: 64_000, gradients: 32_000, paged: 7_000, pass: 20_000 };
        for (free, alone, want) in [
            (116_000, true, StatePlace::Device),
            (115_999, true, StatePlace::Host),
            (52_000, true, StatePlace::Host),
            (51_999, true, StatePlace::HostWithGradients),
            (51_999, false, StatePlace::Host),
            (0, true, StatePlace::HostWithGradients),
        ] {
            assert_eq!(need.place_in(free, alone), want, "{free} {alone}");
        }
        // Nothing is gained where no block is trained.
        let need = StateNeed { paged: 32_000, ..need };
        assert_eq!(need.place_in(0, true), StatePlace::Host);
    }
}
