//! Which memory a training's state goes to.

use selfplay_model::{Decoder, gpu, host_memory};

use super::need::StateNeed;
use super::place::StatePlace;
use crate::TrainError;
use crate::collective::Collective;
use crate::settings::{Offload, TrainSettings, ZeroStage};

impl StatePlace {
    /// The settings' place. With `auto` what does not fit into the device beside the least that a pass of the largest
    /// micro-batch keeps is the host's, the state before the gradients; says so.
    ///
    /// # Errors
    /// The error of the device that is asked for its memory; gradients on the host with several ranks; a host without the memory.
    pub(crate) fn of(
        decoder: &Decoder,
        settings: &TrainSettings,
        collective: &dyn Collective,
    ) -> Result<Self, TrainError> {
        let is_alone = collective.world() == 1 && collective.parts() == 1;
        if settings.offload == Offload::OptimizerAndGradients && !is_alone {
            return Err(TrainError::Data {
                problem:
                    "offload = \"optimizer+gradients\" with several ranks: their gradients are summed on the devices"
                        .into(),
                want: "offload = \"optimizer\", or one rank".into(),
            });
        }
        let memory = match settings.offload {
            Offload::None => None,
            Offload::Auto | Offload::Optimizer | Offload::OptimizerAndGradients => {
                gpu::memory(decoder.device())?
            }
        };
        let need = || {
            // Ranks divide the state where they divide anything.
            let ranks = if settings.zero == ZeroStage::Off { 1 } else { collective.world().max(1) as u64 };
            StateNeed::of(decoder, settings, ranks)
        };
        let place = match (settings.offload, memory) {
            (Offload::None, _) | (Offload::Auto, None) => Self::Device,
            (Offload::Optimizer, _) => Self::Host,
            (Offload::OptimizerAndGradients, _) => Self::HostWithGradients,
            // As `ActivationMemory` leaves it to the products and the pool.
            (Offload::Auto, Some(memory)) => {
                let free = (memory.free as u64).saturating_sub(memory.total as u64 / 32);
                need()?.place_in(free, is_alone)
            }
        };
        // On a CPU all is in one memory anyway.
        if place.is_host() && memory.is_some() {
            need()?.check_host(place, host_memory::available())?;
        }
        Ok(place)
    }
}
