//! How many tokens a training's passes have, where `train.micro_batch_tokens` does not say so: decided once, before the first step, the same
//! on every rank.
//!
//! What the newest checkpoint has recorded goes before everything, so that whoever goes on has the same passes. With `auto` it is the fastest
//! size that fits ([`StepWork::fastest`]), on a CPU a fixed one. A number stays, unless passes of it are more than all memory that there
//! is: then they are halved until they are not, instead of a training that the system ends.

use selfplay_model::decoder::KeepPlan;
use selfplay_model::{Decoder, gpu, host_memory};
use selfplay_records::ExampleKind;

use super::checkpoint::recorded_pass;
use super::run::TrainRun;
use crate::TrainError;
use crate::collective::{Collective, agree, from_first, is_first};
use crate::objectives::Objective;
use crate::offload::{StateNeed, StatePlace};
use crate::settings::{Offload, Recompute, TrainSettings, ZeroStage};
use crate::step_cost::{PASS_ON_CPU, PASS_SIZES, StepWork};

/// Tokens of a pass at most; `None` where the settings' number is.
///
/// # Errors
/// The error of the device that is asked for its memory, a folder that cannot be read, or another rank's.
pub(super) fn settle(
    decoder: &Decoder,
    objective: &dyn Objective,
    settings: &TrainSettings,
    run: &TrainRun<'_>,
) -> Result<Option<usize>, TrainError> {
    let collective = run.collective;
    let recorded = if is_first(collective) { recorded_pass(run.folder) } else { Ok(None) };
    let recorded = agree(collective, recorded)?.unwrap_or(0);
    let recorded = from_first(collective, &[recorded as f64])?.first().map_or(0, |&tokens| tokens as usize);
    if recorded > 0 {
        return Ok(Some(recorded));
    }
    let sizing =
        Sizing { decoder, settings, batch: BatchLengths::of(objective, settings, collective), collective };
    let own = agree(collective, sizing.choose())?;
    let all = collective.all_gather(&[own as f64])?;
    let least = all.into_iter().fold(own as f64, f64::min) as usize;
    if settings.micro_batch_tokens.number() == Some(least) {
        return Ok(None);
    }
    if settings.micro_batch_tokens.number().is_none() {
        tracing::info!("micro_batch_tokens = \"auto\": passes have {least} tokens at most");
    }
    Ok(Some(least))
}

/// Tokens of the batches of one rank.
#[derive(Clone, Copy, Debug, PartialEq)]
struct BatchLengths {
    /// Of the longest example.
    longest: usize,
    /// Of the largest batch.
    most: usize,
    /// Of a batch on average.
    mean: usize,
    /// Of an example on average.
    example: f64,
}

impl BatchLengths {
    fn of(objective: &dyn Objective, settings: &TrainSettings, collective: &dyn Collective) -> Self {
        let examples = objective.examples();
        let mut lengths: Vec<usize> = (0..examples.count()).map(|example| examples.tokens(example)).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        let ranks = collective.world().max(1);
        let mean = lengths.iter().sum::<usize>() as f64 / lengths.len().max(1) as f64;
        let longest = match settings.loss.examples() {
            // A pass has responses of a group, not the whole of it.
            ExampleKind::Groups => settings.max_length,
            _ => lengths.first().copied().unwrap_or(1),
        };
        let batch = settings.batch_size.min(lengths.len());
        Self {
            longest,
            most: lengths[..batch].iter().sum::<usize>().div_ceil(ranks).max(longest),
            mean: ((batch as f64 * mean) as usize).div_ceil(ranks),
            example: mean,
        }
    }

    /// Tokens of the largest pass, where a pass may have `most`.
    fn pass(self, most: usize) -> usize {
        most.max(self.longest).min(self.most)
    }
}

/// What a size goes by.
struct Sizing<'a> {
    decoder: &'a Decoder,
    settings: &'a TrainSettings,
    batch: BatchLengths,
    collective: &'a dyn Collective,
}

impl Sizing<'_> {
    fn is_alone(&self) -> bool {
        self.collective.world() == 1 && self.collective.parts() == 1
    }

    fn choose(&self) -> Result<usize, TrainError> {
        let memory = gpu::memory(self.decoder.device())?;
        let wanted = match (self.settings.micro_batch_tokens.number(), memory) {
            (Some(number), _) => number,
            (None, None) => PASS_ON_CPU,
            // As [`StatePlace`] leaves it to the products and the pool.
            (None, Some(memory)) => {
                self.fastest((memory.free as u64).saturating_sub(memory.total as u64 / 32))?
            }
        };
        let total = match memory {
            Some(memory) => Some(memory.total as u64),
            None => host_memory::total().map(|memory| memory.bytes),
        };
        total.map_or(Ok(wanted), |total| self.possible(wanted, total, memory.is_some()))
    }

    /// What passes over so many tokens need.
    fn need(&self, tokens: usize) -> Result<StateNeed, TrainError> {
        // Ranks divide the state where they divide anything.
        let ranks = match self.settings.zero {
            ZeroStage::Off => 1,
            _ => self.collective.world().max(1) as u64,
        };
        let sized = TrainSettings { micro_batch_tokens: tokens.into(), ..self.settings.clone() };
        StateNeed::of(self.decoder, &sized, ranks)
    }

    /// Where the state may be, as [`StatePlace`] decides it: the first place in which a pass fits.
    fn places(&self, need: &StateNeed, on_gpu: bool) -> Vec<StatePlace> {
        match self.settings.offload {
            _ if !on_gpu => vec![StatePlace::Device],
            Offload::None => vec![StatePlace::Device],
            Offload::Optimizer => vec![StatePlace::Host],
            Offload::OptimizerAndGradients => vec![StatePlace::HostWithGradients],
            Offload::Auto if self.is_alone() && need.has_pages() => {
                vec![StatePlace::Device, StatePlace::Host, StatePlace::HostWithGradients]
            }
            Offload::Auto => vec![StatePlace::Device, StatePlace::Host],
        }
    }

    /// The fastest size with so many bytes free; the least where none fits.
    fn fastest(&self, free: u64) -> Result<usize, TrainError> {
        let needs = PASS_SIZES.map(|size| self.need(self.batch.pass(size)));
        let needs = needs.into_iter().collect::<Result<Vec<_>, _>>()?;
        let Some(first) = needs.first() else { return Ok(PASS_ON_CPU) };
        let found = self.places(first, true).into_iter().find_map(|place| {
            let work = self.work(place, first);
            work.fastest(|size| {
                let at = PASS_SIZES.iter().position(|&one| one == size)?;
                let room = free.checked_sub(needs[at].on_device(place) + needs[at].pass)?;
                self.keep(self.batch.pass(size), room)
            })
        });
        Ok(found.unwrap_or(PASS_SIZES[0]))
    }

    /// What a pass keeps with so many bytes left beside the least; `None` where it does not fit.
    fn keep(&self, tokens: usize, room: u64) -> Option<KeepPlan> {
        let all = self.kept(tokens, KeepPlan::LEAST) + room;
        match self.settings.recompute {
            Recompute::Always => Some(KeepPlan::LEAST),
            Recompute::Never => (self.kept(tokens, KeepPlan::ALL) <= all).then_some(KeepPlan::ALL),
            Recompute::Auto => {
                Some(KeepPlan::fitting(self.decoder.architecture(), tokens, self.decoder.dtype(), all))
            }
        }
    }

    /// Bytes that a pass keeps and makes of its blocks.
    fn kept(&self, tokens: usize, plan: KeepPlan) -> u64 {
        let token = self.decoder.architecture().training_values(plan) * self.decoder.dtype().size_in_bytes();
        (tokens as u64).saturating_mul(token as u64)
    }

    fn work(&self, place: StatePlace, need: &StateNeed) -> StepWork<'_> {
        let host_bytes = match place {
            // Sums of the blocks' gradients, there and back.
            StatePlace::HostWithGradients => 2 * (need.gradients - need.paged),
            StatePlace::Device | StatePlace::Host => 0,
        };
        StepWork {
            shape: self.decoder.architecture(),
            batch: self.batch.mean,
            context: self.batch.example / 2.0,
            weight_bytes: self.weight_bytes(),
            trained: need.gradients / 4,
            host_bytes,
        }
    }

    fn weight_bytes(&self) -> u64 {
        self.decoder.parameters().iter().map(|(_, parameter)| parameter.footprint() as u64).sum()
    }

    /// `tokens`, halved until what a training cannot do without (weights, state, what a pass keeps at the least) is no more than all memory
    /// that there is.
    fn possible(&self, tokens: usize, total: u64, on_gpu: bool) -> Result<usize, TrainError> {
        // Ranks that divide gradients have all of them between the passes of a step: smaller passes need more.
        if self.settings.zero >= ZeroStage::Gradients && self.collective.world() > 1 {
            return Ok(tokens);
        }
        let mut most = tokens;
        loop {
            let pass = self.batch.pass(most);
            let need = self.need(pass)?;
            let state = self.places(&need, on_gpu).into_iter().map(|place| need.on_device(place)).min();
            let least = self.weight_bytes() + state.unwrap_or(0) + self.kept(pass, KeepPlan::LEAST);
            if least <= total || pass <= self.batch.longest || most < 2 {
                if most < tokens {
                    tracing::warn!(
                        "passes over {tokens} tokens need more than the {:.1} GB of memory that there are: they have {most} tokens at most, for \
                         the same result up to rounding",
                        total as f64 / 1e9
                    );
                }
                return Ok(most);
            }
            most = pass / 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Alone;
    use crate::objectives::{PairObjective, TokenPair};
    use crate::settings::MicroBatchTokens;
    use selfplay_model::{Architecture, LoadOptions};

    fn decoder() -> Decoder {
        let config = serde_json::json!({
            "model_type": "llama", "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4,
            "num_attention_heads": 2, "num_key_value_heads": 1,
        });
        let shape = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        Decoder::random(shape, 1, &LoadOptions::default()).unwrap()
    }

    /// 40 pairs of 1,000 tokens each.
    fn sized<T>(settings: &TrainSettings, look: impl FnOnce(&Sizing<'_>) -> T) -> T {
        let pair = TokenPair {
            name: "pair".to_owned(),
            prompt: vec![1; 400],
            chosen: vec![2; 300],
            rejected: vec![3; 300],
            ..TokenPair::default()
        };
        let objective = PairObjective::new(vec![pair; 40], settings);
        let (decoder, collective) = (decoder(), Alone::default());
        let batch = BatchLengths::of(&objective, settings, &collective);
        look(&Sizing { decoder: &decoder, settings, batch, collective: &collective })
    }

    fn auto() -> TrainSettings {
        TrainSettings {
            micro_batch_tokens: MicroBatchTokens::Auto,
            batch_size: 32,
            max_length: 2000,
            ..TrainSettings::default()
        }
    }

    #[test]
    fn lengths_are_those_of_the_largest_batch() {
        sized(&auto(), |sizing| {
            let want = BatchLengths { longest: 1000, most: 32_000, mean: 32_000, example: 1000.0 };
            assert_eq!(sizing.batch, want);
            assert_eq!([500, 8192, 65_536].map(|most| want.pass(most)), [1000, 8192, 32_000]);
        });
    }

    /// What is free decides: the whole batch in one pass where all of it is kept, smaller passes where not, and the least where nothing fits.
    #[test]
    fn the_fastest_size_goes_by_the_free_memory_and_fits() {
        sized(&auto(), |sizing| {
            assert_eq!(sizing.fastest(u64::MAX / 4).unwrap(), 32_768);
            assert_eq!(sizing.fastest(0).unwrap(), PASS_SIZES[0]);
            let mut last = 0;
            let largest = sizing.need(sizing.batch.pass(65_536)).unwrap();
            let enough = 2 * (largest.on_device(StatePlace::Device) + largest.pass);
            for free in (0..60).map(|step| step * enough / 60) {
                let size = sizing.fastest(free).unwrap();
                let need = sizing.need(sizing.batch.pass(size)).unwrap();
                let taken = need.on_device(StatePlace::HostWithGradients) + need.pass;
                assert!(taken <= free || size == PASS_SIZES[0], "{size} of {free}");
                last = last.max(size);
            }
            assert!(last > PASS_SIZES[0], "nothing larger was chosen");
        });
        // Where nothing may be computed again, all that is kept must fit.
        let never = TrainSettings { recompute: Recompute::Never, offload: Offload::None, ..auto() };
        sized(&never, |sizing| {
            let least = sizing.need(sizing.batch.pass(4096)).unwrap();
            let free = least.on_device(StatePlace::Device) + least.pass;
            // With the least kept 4,096 tokens would fit just so.
            assert!(sizing.fastest(free).unwrap() < 4096);
        });
    }

    #[test]
    fn a_number_stays_unless_no_memory_could_have_it() {
        let settings = TrainSettings { micro_batch_tokens: 16_384.into(), ..auto() };
        sized(&settings, |sizing| {
            assert_eq!(sizing.possible(16_384, u64::MAX, false).unwrap(), 16_384);
            let need = |tokens| {
                let need = sizing.need(tokens).unwrap();
                let kept = sizing.kept(tokens, KeepPlan::LEAST);
                sizing.weight_bytes() + need.on_device(StatePlace::Device) + kept
            };
            assert_eq!(sizing.possible(16_384, need(16_384), false).unwrap(), 16_384);
            assert_eq!(sizing.possible(16_384, need(16_384) - 1, false).unwrap(), 8192);
            // An example is not divided.
            let least = sizing.possible(16_384, 0, false).unwrap();
            assert!((500..=1000).contains(&least), "{least}");
        });
    }
}
