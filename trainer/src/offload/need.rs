//! What a training's state needs of the device's memory and of the host's.

use selfplay_model::Decoder;
use selfplay_model::decoder::{KeepPlan, Segment, head_bytes};

use super::pages::BLOCKS_THERE;
use super::place::StatePlace;
use crate::TrainError;
use crate::activation_memory::attention_bytes;
use crate::settings::{OptimizerKind, TrainSettings};
use crate::trained::trained;

/// Bytes of a training beside its weights.
#[derive(Clone, Debug)]
pub(crate) struct StateNeed {
    /// State and masters, on the device.
    pub(super) state: u64,
    /// The sums of all gradients.
    pub(crate) gradients: u64,
    /// Those that the device has where the host keeps the blocks'.
    pub(crate) paged: u64,
    /// A pass that keeps the least, a chunk of the head.
    pub(crate) pass: u64,
    /// State and masters, on the host, which has one of every number.
    pub(super) host_state: u64,
    /// The same with state in eight bits, where it has more; with the key's value.
    pub(super) in_eight_bits: Option<(OptimizerKind, u64)>,
    /// Of an adapter alone that is trained.
    pub(super) is_adapter: bool,
}

impl StateNeed {
    /// Of a rank, of `ranks` that divide state and masters.
    ///
    /// # Errors
    /// As [`attention_bytes`].
    pub(crate) fn of(decoder: &Decoder, settings: &TrainSettings, ranks: u64) -> Result<Self, TrainError> {
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
        let tokens = settings.micro_batch_tokens.or_standard();
        let kept = tokens as u64 * (shape.training_values(KeepPlan::LEAST) * dtype.size_in_bytes()) as u64;
        let logits = head_bytes(shape.vocab_size, usize::MAX, dtype, true);
        let on_host =
            |settings: &TrainSettings| (4 * numbers + settings.state_bytes(numbers)).div_ceil(ranks);
        let in_eight_bits = match settings.optimizer {
            OptimizerKind::AdamW => Some(OptimizerKind::AdamW8Bit),
            OptimizerKind::RmsProp => Some(OptimizerKind::RmsProp8Bit),
            OptimizerKind::AdamW8Bit | OptimizerKind::RmsProp8Bit => None,
        };
        Ok(Self {
            state: (numbers * masters + settings.state_bytes(numbers)) / ranks,
            gradients: 4 * numbers,
            paged: 4 * (resident + there).min(numbers),
            pass: kept + logits + attention_bytes(decoder, tokens)?,
            host_state: on_host(settings),
            in_eight_bits: in_eight_bits
                .map(|optimizer| (optimizer, on_host(&TrainSettings { optimizer, ..settings.clone() }))),
            is_adapter: settings.lora.is_some(),
        })
    }

    /// Bytes of the device that are taken beside weights and passes, with the state in `place`.
    pub(crate) fn on_device(&self, place: StatePlace) -> u64 {
        match place {
            StatePlace::Device => self.state + self.gradients,
            StatePlace::Host => self.gradients,
            StatePlace::HostWithGradients => self.paged,
        }
    }

    /// Whether gradients on the host leave the device anything: not where no block is trained.
    pub(crate) fn has_pages(&self) -> bool {
        self.paged < self.gradients
    }

    /// Where it all goes with so many bytes free on the device.
    pub(super) fn place_in(&self, free: u64, is_alone: bool) -> StatePlace {
        if self.state + self.gradients + self.pass <= free {
            return StatePlace::Device;
        }
        if self.gradients + self.pass <= free || !is_alone || self.paged == self.gradients {
            tracing::info!(
                "the optimizer's state and the f32 masters ({:.1} GB) are kept in the host's memory: beside them the device has room for {:.1} GB of the {:.1} GB that a step needs",
                gigabytes(self.host_state),
                gigabytes(free.saturating_sub(self.state)),
                gigabytes(self.gradients + self.pass),
            );
            return StatePlace::Host;
        }
        tracing::info!(
            "the optimizer's state, the f32 masters and the blocks' gradients ({:.1} GB) are kept in the host's memory: the device has room for {:.1} GB, and a step with all gradients needs {:.1} GB",
            gigabytes(self.on_host(StatePlace::HostWithGradients)),
            gigabytes(free),
            gigabytes(self.gradients + self.pass),
        );
        StatePlace::HostWithGradients
    }

    /// Bytes of the host's memory.
    fn on_host(&self, place: StatePlace) -> u64 {
        match place {
            StatePlace::Device => 0,
            StatePlace::Host => self.host_state,
            StatePlace::HostWithGradients => self.host_state + self.gradients - self.paged,
        }
    }

    /// Refuses a host that has not the memory for its part: `free` bytes, where they are known, of which a tenth is left for what
    /// else it has to do. Without this the system would end the process, without a word.
    ///
    /// # Errors
    /// What is missing, and what would be right.
    pub(super) fn check_host(&self, place: StatePlace, free: Option<u64>) -> Result<(), TrainError> {
        let need = self.on_host(place);
        let Some(free) = free.filter(|free| need > free - free / 10) else { return Ok(()) };
        let what = match place {
            StatePlace::HostWithGradients => {
                "the optimizer's state, the f32 masters and the blocks' gradients need"
            }
            StatePlace::Device | StatePlace::Host => "the optimizer's state and the f32 masters need",
        };
        let mut ways = Vec::new();
        if let Some((optimizer, state)) = self.in_eight_bits {
            let less = need - self.host_state + state;
            if less <= free - free / 10 {
                ways.push(format!("optimizer = \"{optimizer}\" ({:.1} GB)", gigabytes(less)));
            }
        }
        if !self.is_adapter {
            ways.push("an adapter (lora), which needs next to nothing of it".to_owned());
        }
        ways.push(format!("{:.1} GB free", gigabytes(need + need / 9)));
        Err(TrainError::Data {
            problem: format!(
                "{what} {:.1} GB of the host's memory (offload), of which {:.1} GB are free for this process",
                gigabytes(need),
                gigabytes(free)
            ),
            want: ways.join(", or "),
        })
    }
}

fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    /// Of an 8B with RMSProp: masters and squares 64 GB, gradients 32.
    fn need() -> StateNeed {
        StateNeed {
            state: 64_000_000_000,
            gradients: 32_000_000_000,
            paged: 7_000_000_000,
            pass: 20_000_000_000,
            host_state: 64_000_000_000,
            in_eight_bits: Some((OptimizerKind::RmsProp8Bit, 40_000_000_000)),
            is_adapter: false,
        }
    }

    #[test]
    fn the_state_goes_before_the_gradients() {
        for (free, alone, want) in [
            (116_000_000_000, true, StatePlace::Device),
            (115_999_000_000, true, StatePlace::Host),
            (52_000_000_000, true, StatePlace::Host),
            (51_999_000_000, true, StatePlace::HostWithGradients),
            (51_999_000_000, false, StatePlace::Host),
            (0, true, StatePlace::HostWithGradients),
        ] {
            assert_eq!(need().place_in(free, alone), want, "{free} {alone}");
        }
        // Nothing is gained where no block is trained.
        let need = StateNeed { paged: 32_000_000_000, ..need() };
        assert_eq!(need.place_in(0, true), StatePlace::Host);
    }

    #[test]
    fn a_host_without_the_memory_is_refused_with_what_would_do() {
        let text = |place, free| match need().check_host(place, free) {
            Ok(()) => String::new(),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Input);
                error.to_string()
            }
        };
        // A tenth is left alone; what is not known is not refused.
        assert_eq!(text(StatePlace::Host, Some(71_200_000_000)), "");
        assert_eq!(text(StatePlace::Host, None), "");
        assert_eq!(text(StatePlace::Device, Some(0)), "");
        let less = text(StatePlace::Host, Some(71_000_000_000));
        for part in ["need 64.0 GB", "71.0 GB are free", "\"rmsprop8bit\" (40.0 GB)", "lora", "71.1 GB free"]
        {
            assert!(less.contains(part), "{part}: {less}");
        }
        // With the gradients 25 GB more; eight bits are no help where even they don't fit.
        let more = text(StatePlace::HostWithGradients, Some(41_000_000_000));
        assert!(more.contains("gradients need 89.0 GB") && !more.contains("rmsprop8bit"), "{more}");
        let adapter = StateNeed { is_adapter: true, ..need() };
        let error = adapter.check_host(StatePlace::Host, Some(0)).unwrap_err().to_string();
        assert!(!error.contains("lora"), "{error}");
    }
}
