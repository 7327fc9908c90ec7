//! Whether the host has the memory that a training leaves to it (`train.offload`).

use selfplay_trainer::{OptimizerKind, TrainSettings};

use super::device::AvailableMemory;
use super::memory::{self, Models};
use crate::console::units::{size, size_at_least};
use crate::error::EngineError;

/// A training that is planned for a device with a host.
pub(crate) struct HostPlan<'a> {
    /// A recipe's, or a link's.
    pub(crate) name: &'a str,
    pub(crate) models: &'a Models<'a>,
    pub(crate) settings: &'a TrainSettings,
    /// As `--set` takes the section of the settings.
    pub(crate) section: &'a str,
    /// The device's memory, where it is known.
    pub(crate) device: Option<u64>,
}

impl HostPlan<'_> {
    fn need(&self, settings: &TrainSettings) -> u64 {
        memory::offloaded_bytes(self.models, settings, self.device)
    }

    /// The error of a host that has less, with what would do: as training itself refuses it, a tenth is left for what else the
    /// host has to do. `None` where there is room.
    pub(crate) fn refusal(&self, host: &AvailableMemory) -> Option<EngineError> {
        let room = host.bytes - host.bytes / 10;
        let need = self.need(self.settings);
        if need <= room {
            return None;
        }
        let Self { name, section, settings, .. } = self;
        let in_eight_bits = match settings.optimizer {
            OptimizerKind::AdamW => Some(OptimizerKind::AdamW8Bit),
            OptimizerKind::RmsProp => Some(OptimizerKind::RmsProp8Bit),
            OptimizerKind::AdamW8Bit | OptimizerKind::RmsProp8Bit => None,
        };
        let mut ways = Vec::new();
        if let Some(optimizer) = in_eight_bits {
            let less = self.need(&TrainSettings { optimizer, ..(*settings).clone() });
            if less <= room {
                ways.push(format!("with --set {section}.optimizer={optimizer} {} is enough", size(less)));
            }
        }
        if settings.lora.is_none() {
            ways.push(format!("an adapter (--set {section}.lora.rank=16) needs next to none of it"));
        }
        ways.push(format!("a host with {} has room (--host-memory SIZE)", size_at_least(need + need / 9)));
        Some(EngineError::input(format!(
            "{name} leaves {} of its training to the host's memory, more than nine tenths of the {} of {}; {}",
            size(need),
            size(host.bytes),
            host.owner,
            ways.join("; ")
        )))
    }
}

#[cfg(test)]
mod tests {
    use selfplay_model::Architecture;

    use super::*;
    use crate::device::DeviceChoice;
    use crate::plan::memory::tests::{footprint, recipe};

    /// An 8B on a card of 80 GB: masters and squares, 64.2 GB; with squares in eight bits 40.3.
    #[test]
    fn a_host_that_is_too_small_is_refused_with_what_would_do() {
        let (policy, preference) = (Architecture::named("llama-3-8b").unwrap(), footprint());
        let recipe = recipe(&["policy.dtype=bf16"]);
        let models = Models::of(&recipe, DeviceChoice::Cuda(0), &policy, &preference);
        let plan = |settings, bytes| {
            let host = AvailableMemory { bytes, owner: "this machine".to_owned() };
            let (device, section) = (Some(85_000_000_000), "train");
            let plan = HostPlan { name: "a recipe", models: &models, settings, section, device };
            plan.refusal(&host).map(|error| (error.exit_status(), error.to_string()))
        };
        assert_eq!(plan(&recipe.train, 72_000_000_000), None);
        let (status, text) = plan(&recipe.train, 64_000_000_000).unwrap();
        assert_eq!(status, 2);
        for part in [
            "leaves 64.2 GB",
            "64.0 GB of this machine",
            "--set train.optimizer=rmsprop8bit 40.3 GB is enough",
            "--set train.lora.rank=16",
            "--host-memory",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        // Too little for that too.
        let (_, text) = plan(&recipe.train, 30_000_000_000).unwrap();
        assert!(!text.contains("rmsprop8bit"), "{text}");
        // Nothing is left to the host of a device with room.
        let here = TrainSettings { offload: selfplay_trainer::Offload::None, ..recipe.train.clone() };
        assert_eq!(plan(&here, 1_000_000), None);
    }
}
