//! What does not fit into a device's memory, and the settings that would make it fit: each is tried by estimating with it.

use std::fmt;

use candle_core::DType;
use selfplay_model::Architecture;
use selfplay_scorer::{Footprint, ScoreDType};
use selfplay_trainer::Recompute;

use super::device::AvailableMemory;
use super::memory::{self, Models, Need, Phase};
use crate::console::units::{size, size_at_least};
use crate::device::DeviceChoice;
use crate::error::EngineError;
use crate::recipe::{Override, Recipe, WeightDType};

/// A recipe, its models' shapes and where it is to run.
#[derive(Clone, Copy)]
pub(crate) struct Planned<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) policy: &'a Architecture,
    pub(crate) preference: &'a Footprint,
    pub(crate) device: DeviceChoice,
}

/// A key with a value that takes less memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    Recompute,
    MicroBatchTokens(usize),
    CacheMib(usize),
    ScoreBatchTokens(usize),
    PolicyBf16,
    ScoreBf16,
}

impl Setting {
    fn apply(self, recipe: &mut Recipe) {
        match self {
            Self::Recompute => recipe.train.recompute = Recompute::Always,
            Self::MicroBatchTokens(tokens) => recipe.train.micro_batch_tokens = tokens.into(),
            Self::CacheMib(mib) => recipe.sample.cache_mib = Some(mib),
            Self::ScoreBatchTokens(tokens) => recipe.score.settings.kind.set_batch_tokens(tokens),
            Self::PolicyBf16 => recipe.policy.dtype = Some(WeightDType::Bf16),
            Self::ScoreBf16 => recipe.score.settings.kind.set_dtype(ScoreDType::Bf16),
        }
    }
}

impl Setting {
    /// As `--set` takes it.
    fn to_override(self) -> Override {
        match self {
            Self::Recompute => Override::new("train.recompute", "true"),
            Self::MicroBatchTokens(tokens) => Override::new("train.micro_batch_tokens", tokens.to_string()),
            Self::CacheMib(mib) => Override::new("sample.cache_mib", mib.to_string()),
            Self::ScoreBatchTokens(tokens) => Override::new("score.batch_tokens", tokens.to_string()),
            Self::PolicyBf16 => Override::new("policy.dtype", "bf16"),
            Self::ScoreBf16 => Override::new("score.dtype", "bf16"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Override { key, value } = self.to_override();
        write!(f, "--set {key}={value}")
    }
}

/// The keys with which a recipe fits into so many bytes: none where it does as it is. `None` where no setting is enough.
pub(crate) fn fitting_settings(planned: &Planned<'_>, memory: u64) -> Option<Vec<Override>> {
    match remedy(planned, memory) {
        MemoryRemedy::Settings(settings) => Some(settings.into_iter().map(Setting::to_override).collect()),
        MemoryRemedy::None { .. } => None,
    }
}

/// The values of each key that take less than the recipe's, the least change first.
fn savings(planned: &Planned<'_>) -> [Vec<Setting>; 6] {
    let recipe = planned.recipe;
    let models = models(planned, recipe);
    let on_gpu = planned.device != DeviceChoice::Cpu;
    let if_that = |holds: bool, setting: Setting| if holds { vec![setting] } else { Vec::new() };

    let pair = memory::longest_pair(&recipe.train);
    let micro_batches = lower_powers(memory::pass_tokens(&recipe.train), pair);
    let limits = memory::batch_limits(&models, &recipe.sample, None);
    let mib = |bytes: u64| usize::try_from(bytes >> 20).unwrap_or(usize::MAX);
    // Where a GPU's memory decides there is nothing to set: keys and values take what is left.
    let caches = match limits.cache_bytes {
        Some(_) => lower_powers(
            mib(memory::key_value_pages(&models, recipe, limits, None)),
            mib(memory::candidate_pages(&models, recipe)),
        ),
        None => Vec::new(),
    };
    let scores_here = !planned.preference.is_elsewhere();
    let scored = if scores_here {
        lower_powers(memory::scoring_tokens(recipe), memory::longest_scored(recipe))
    } else {
        Vec::new()
    };
    [
        if_that(recipe.train.recompute == Recompute::Never, Setting::Recompute),
        micro_batches.into_iter().map(Setting::MicroBatchTokens).collect(),
        caches.into_iter().map(Setting::CacheMib).collect(),
        scored.into_iter().map(Setting::ScoreBatchTokens).collect(),
        if_that(on_gpu && models.policy_dtype == DType::F32, Setting::PolicyBf16),
        if_that(scores_here && on_gpu && models.preference_dtype == DType::F32, Setting::ScoreBf16),
    ]
}

/// Powers of two below `now`, downwards; the last is the first that is at most `least`, below which nothing gets less.
fn lower_powers(now: usize, least: usize) -> Vec<usize> {
    let mut powers = Vec::new();
    let mut power = match now.checked_next_power_of_two() {
        Some(power) => power / 2,
        None => 1 << (usize::BITS - 1),
    };
    while power >= 1 && now > least {
        powers.push(power);
        if power <= least {
            break;
        }
        power /= 2;
    }
    powers
}

fn models<'a>(planned: &Planned<'a>, recipe: &Recipe) -> Models<'a> {
    Models::of(recipe, planned.device, planned.policy, planned.preference)
}

/// The phases of a recipe with some keys set otherwise.
fn needs_with(planned: &Planned<'_>, settings: &[Setting], memory: u64) -> Vec<Need> {
    let mut recipe = planned.recipe.clone();
    settings.iter().for_each(|setting| setting.apply(&mut recipe));
    memory::needs(&models(planned, &recipe), &recipe, Some(memory))
}

/// The largest need, of training or of the other phases.
fn need_of(needs: &[Need], training: bool) -> u64 {
    let of = needs.iter().filter(|need| (need.phase == Phase::Training) == training);
    of.map(|need| need.bytes.total()).max().unwrap_or(0)
}

/// The result of the search for settings.
#[derive(Debug, PartialEq, Eq)]
enum MemoryRemedy {
    /// With these everything fits.
    Settings(Vec<Setting>),
    /// No settings are enough: with every saving at its most this much is needed.
    None { least: u64 },
}

fn remedy(planned: &Planned<'_>, memory: u64) -> MemoryRemedy {
    let savings = savings(planned);
    let mut found = Some(Vec::new());
    // Sampling and scoring first, then training on top of what they ask for.
    for sides in [&[false][..], &[false, true][..]] {
        let fits = |settings: &[Setting]| {
            let needs = needs_with(planned, settings, memory);
            sides.iter().all(|&training| need_of(&needs, training) <= memory)
        };
        found = found.and_then(|chosen| search(&savings, chosen, &fits));
    }
    if let Some(settings) = found {
        return MemoryRemedy::Settings(settings);
    }
    // The dtypes are no saving here: 16 bits want masters beside them, and may take more.
    let lowest: Vec<Setting> = savings[..4].iter().filter_map(|values| values.last().copied()).collect();
    let needs = needs_with(planned, &lowest, memory);
    MemoryRemedy::None { least: need_of(&needs, false).max(need_of(&needs, true)) }
}

/// `chosen` and what must join it so that all fits: key after key, each only as low as it must be.
fn search(
    savings: &[Vec<Setting>],
    mut chosen: Vec<Setting>,
    fits: &dyn Fn(&[Setting]) -> bool,
) -> Option<Vec<Setting>> {
    for values in savings {
        if fits(&chosen) {
            break;
        }
        if values.iter().any(|value| chosen.contains(value)) {
            continue;
        }
        match values.iter().find(|&&value| fits(&[&chosen[..], &[value]].concat())) {
            Some(&value) => chosen.push(value),
            // Not enough alone: as low as it goes, and on to the next.
            None => chosen.extend(values.last()),
        }
    }
    if !fits(&chosen) {
        return None;
    }
    // What is not needed after all is taken out again.
    let mut place = 0;
    while place < chosen.len() {
        let mut without = chosen.clone();
        without.remove(place);
        if fits(&without) {
            chosen = without;
        } else {
            place += 1;
        }
    }
    Some(chosen)
}

/// The error of a plan that needs more than there is: one line with the phase, both figures and what would help. `None`
/// where all fits.
pub(crate) fn refusal(
    planned: &Planned<'_>,
    needs: &[Need],
    memory: &AvailableMemory,
) -> Option<EngineError> {
    let too_large: Vec<&Need> = needs.iter().filter(|need| need.bytes.total() > memory.bytes).collect();
    if too_large.is_empty() {
        return None;
    }
    let figures: Vec<String> = too_large
        .iter()
        .map(|need| format!("about {} for {}", size_at_least(need.bytes.total()), need.phase.name()))
        .collect();
    let (name, figures) = (&planned.recipe.name, figures.join(" and "));
    let need = format!("{name} needs {figures}, more than the {} of {}", size(memory.bytes), memory.owner);
    let remedy = match remedy(planned, memory.bytes) {
        MemoryRemedy::Settings(settings) => {
            let needs = needs_with(planned, &settings, memory.bytes);
            let most = need_of(&needs, false).max(need_of(&needs, true));
            let settings: Vec<String> = settings.iter().map(Setting::to_string).collect();
            format!("with {} {} is enough", settings.join(" "), size(most))
        }
        MemoryRemedy::None { least } => {
            let fixed =
                too_large.iter().map(|need| alone(planned, need.phase)).max_by_key(|(_, bytes)| *bytes);
            let (what, bytes) = fixed.unwrap_or_default();
            format!(
                "{what} alone take {}: no setting of this recipe makes it fit; a smaller policy or preference model does, \
                 or a device with {} (--memory SIZE and --device plan for another)",
                size(bytes),
                size_at_least(least)
            )
        }
    };
    Some(EngineError::input(format!("{need}; {remedy}")))
}

/// The part of a phase that no setting changes, and its bytes.
fn alone(planned: &Planned<'_>, phase: Phase) -> (&'static str, u64) {
    let models = models(planned, planned.recipe);
    let (policy, preference) = (models.policy_weights(), models.preference_weights());
    match phase {
        Phase::SamplingAndScoring => ("both models' weights", policy + preference),
        Phase::Sampling => ("the policy's weights", policy),
        Phase::Scoring => ("the preference model's weights", preference),
        Phase::Training => {
            let what = match models.policy_dtype {
                _ if memory::may_offload(&models, &planned.recipe.train) => "weights and gradients",
                DType::F32 => "weights, gradients and optimizer state",
                _ => "weights, masters, gradients and optimizer state",
            };
            (what, memory::training_state(&models, &planned.recipe.train))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::memory::tests::{footprint, recipe, tiny};

    #[test]
    fn powers_go_down_to_where_nothing_gets_less() {
        assert_eq!(lower_powers(16_384, 2048), [8192, 4096, 2048]);
        assert_eq!(lower_powers(16_000, 3000), [8192, 4096, 2048]);
        assert_eq!(lower_powers(5, 0), [4, 2, 1]);
        assert_eq!(lower_powers(8, 8), [0; 0]);
        assert_eq!(lower_powers(0, 0), [0; 0]);
    }

    /// The peak with some settings, on a device with so much memory.
    fn peak(planned: &Planned<'_>, settings: &[Setting]) -> u64 {
        needs_with(planned, settings, u64::MAX).iter().map(|need| need.bytes.total()).max().unwrap()
    }

    #[test]
    fn the_least_change_that_fits_is_found() {
        let (mut policy, preference) = (tiny(), footprint());
        (policy.num_layers, policy.windows) = (4, vec![None; 4]);
        // Training decides: pages and passes of scoring are small.
        let recipe = recipe(&[
            "train.recompute=false",
            "sample.cache_mib=1",
            "score.batch_tokens=64",
            "score.max_length=64",
        ]);
        let on_cpu =
            Planned { recipe: &recipe, policy: &policy, preference: &preference, device: DeviceChoice::Cpu };
        let (all, recomputed) = (peak(&on_cpu, &[]), peak(&on_cpu, &[Setting::Recompute]));
        assert!(recomputed < all);
        assert_eq!(remedy(&on_cpu, all), MemoryRemedy::Settings(Vec::new()));
        assert_eq!(remedy(&on_cpu, all - 1), MemoryRemedy::Settings(vec![Setting::Recompute]));
        let half = peak(&on_cpu, &[Setting::Recompute, Setting::MicroBatchTokens(8192)]);
        assert!(half < recomputed);
        let MemoryRemedy::Settings(found) = remedy(&on_cpu, recomputed - 1) else { panic!("nothing found") };
        assert!(found.iter().any(|one| matches!(one, Setting::MicroBatchTokens(_))), "{found:?}");
        assert!(peak(&on_cpu, &found) < recomputed);
        // Below the weights nothing helps.
        let MemoryRemedy::None { least } = remedy(&on_cpu, 1000) else { panic!("1 kB is too little") };
        assert!(least < half && matches!(remedy(&on_cpu, least), MemoryRemedy::Settings(_)));
    }

    #[test]
    fn the_message_names_phase_figures_and_setting() {
        let (policy, preference) = (tiny(), footprint());
        let recipe = recipe(&[
            "train.recompute=true",
            "sample.cache_mib=1",
            "score.batch_tokens=64",
            "score.max_length=64",
        ]);
        let planned =
            Planned { recipe: &recipe, policy: &policy, preference: &preference, device: DeviceChoice::Cpu };
        let message = |bytes: u64| {
            let memory = AvailableMemory { bytes, owner: "--memory".to_owned() };
            let needs = needs_with(&planned, &[], bytes);
            refusal(&planned, &needs, &memory).map(|error| (error.exit_status(), error.to_string()))
        };
        let all = peak(&planned, &[]);
        assert_eq!(message(all), None);
        let (status, text) = message(all - 1).unwrap();
        assert_eq!(status, 2);
        for word in [
            " for training, more than the",
            "of --memory",
            "with --set train.micro_batch_tokens=8192",
            "is enough",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        let (_, text) = message(1000).unwrap();
        for word in [
            "for sampling and scoring and about",
            " for training",
            "optimizer state alone take",
            "no setting",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }

    #[test]
    fn sixteen_bits_are_proposed_on_a_gpu_alone() {
        let (mut policy, preference) = (tiny(), footprint());
        policy.stored_dtype = None;
        let recipe = recipe(&["sample.cache_mib=1"]);
        let on =
            |device| savings(&Planned { recipe: &recipe, policy: &policy, preference: &preference, device });
        assert_eq!(on(DeviceChoice::Cuda(0))[4], [Setting::PolicyBf16]);
        assert!(on(DeviceChoice::Cuda(0))[5].is_empty() && on(DeviceChoice::Cpu)[4].is_empty());
    }
}
