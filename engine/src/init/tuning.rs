//! Which numbers can be trained in the memory that there is: drafts are planned, the one that changes least goes first.

use selfplay_model::architecture::is_stored_in_four_bits;
use selfplay_scorer::Footprint;
use selfplay_trainer::{Offload, TrainSettings};

use super::answers::{InitAnswers, InitGoal, Tuning};
use super::draft::Draft;
use super::goals::draft_of;
use crate::console::units::size;
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::inputs::model_files::config_folder;
use crate::plan::device::AvailableMemory;
use crate::plan::fit::{self, Planned};
use crate::plan::memory::{self, Models};
use crate::recipe::{Override, Purpose, Recipe, load_text};

/// The machine that a recipe is to run on.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) device: DeviceChoice,
    /// The device's, where it is known.
    pub(crate) memory: Option<AvailableMemory>,
    /// The host's, where it is known.
    pub(crate) host: Option<u64>,
}

/// What was chosen.
#[derive(Debug)]
pub(crate) struct TuningChoice {
    pub(crate) tuning: Tuning,
    pub(crate) draft: Draft,
    /// The most that a stage needs; absent where nothing was planned.
    pub(crate) peak: Option<u64>,
    /// What training keeps in the host's memory.
    pub(crate) on_host: u64,
}

/// A way to train, and what the host keeps.
#[derive(Clone, Copy)]
struct TuningCandidate {
    tuning: Tuning,
    offload: Offload,
}

/// Gradients on the host make all parameters fit into small cards, at many times an adapter's pace: last, and so taken only where
/// all parameters are asked for.
const CANDIDATES: [TuningCandidate; 6] = [
    TuningCandidate { tuning: Tuning::Full, offload: Offload::None },
    TuningCandidate { tuning: Tuning::Full, offload: Offload::Optimizer },
    TuningCandidate { tuning: Tuning::Lora, offload: Offload::None },
    TuningCandidate { tuning: Tuning::Lora, offload: Offload::Optimizer },
    TuningCandidate { tuning: Tuning::Qlora, offload: Offload::Optimizer },
    TuningCandidate { tuning: Tuning::Full, offload: Offload::OptimizerAndGradients },
];

/// The first way to train that fits, of `asked` alone where it is given. Where the device's memory is not known nothing is
/// planned.
///
/// # Errors
/// A model that is not to be had, a recipe that would be wrong (a file that is not there), a memory that is too small.
pub(crate) fn choose(
    answers: &InitAnswers,
    asked: Option<Tuning>,
    machine: &Machine,
) -> Result<TuningChoice> {
    let Some(available) = &machine.memory else {
        let tuning = asked.unwrap_or(Tuning::Full);
        return Ok(TuningChoice { tuning, draft: draft_of(answers, tuning), peak: None, on_host: 0 });
    };
    let first = recipe_of(answers, &draft_of(answers, Tuning::Full))?;
    let policy_folder = config_folder(&first.policy.model)?;
    let policy = memory::policy_shape(&policy_folder)?;
    let preference = preference(answers, &first)?;
    let in_four_bits = is_stored_in_four_bits(&policy_folder);
    for candidate in CANDIDATES {
        let wanted = asked.is_none_or(|asked| asked == candidate.tuning);
        // What is stored in four bits cannot be trained otherwise.
        if !wanted || in_four_bits && candidate.tuning != Tuning::Qlora {
            continue;
        }
        let mut draft = draft_of(answers, candidate.tuning);
        let recipe = recipe_of(answers, &draft)?;
        let planned =
            Planned { recipe: &recipe, policy: &policy, preference: &preference, device: machine.device };
        let Some(fit) = Fit::of(answers.goal, planned, candidate, available.bytes) else { continue };
        // With a tenth for what else the host has to do.
        if machine.host.is_some_and(|host| fit.on_host > host - host / 10) {
            continue;
        }
        let why = format!("so that it fits into {}", size(available.bytes));
        fit.settings.iter().for_each(|one| draft.set(one, &why));
        return Ok(TuningChoice {
            tuning: candidate.tuning,
            draft,
            peak: Some(fit.peak),
            on_host: fit.on_host,
        });
    }
    let way =
        asked.map_or("in any way that init knows".to_owned(), |tuning| format!("as {}", tuning.title()));
    Err(EngineError::input(format!(
        "init: {} does not fit into the {} of {} {way}; a smaller model does, or a larger device (--gpu-memory SIZE)",
        answers.policy,
        size(available.bytes),
        available.owner
    )))
}

fn preference(answers: &InitAnswers, recipe: &Recipe) -> Result<Footprint> {
    if answers.goal != InitGoal::SelfPlay {
        return Ok(Footprint::elsewhere());
    }
    let folder = config_folder(&recipe.score.model)?;
    Ok(Footprint::of_folder(folder.as_path(), &recipe.score.settings.kind)?)
}

/// The draft, read as a recipe.
fn recipe_of(answers: &InitAnswers, draft: &Draft) -> Result<Recipe> {
    let purpose = match answers.goal {
        InitGoal::SelfPlay => Purpose::Check,
        _ => Purpose::Stage,
    };
    load_text(&draft.plain_text(), "init", None, &answers.name, &[], purpose)
}

/// What makes a recipe fit, and what it then needs.
struct Fit {
    settings: Vec<Override>,
    peak: u64,
    on_host: u64,
}

impl Fit {
    fn of(goal: InitGoal, planned: Planned<'_>, candidate: TuningCandidate, bytes: u64) -> Option<Self> {
        let mut recipe = planned.recipe.clone();
        // The recipe leaves it to be decided where it runs, by the same arithmetic.
        train_settings(goal, &mut recipe).offload = candidate.offload;
        let planned = Planned { recipe: &recipe, ..planned };
        match goal {
            InitGoal::SelfPlay => Self::of_run(&planned, bytes),
            _ => Self::of_training(goal, &planned, bytes),
        }
    }

    fn of_run(planned: &Planned<'_>, bytes: u64) -> Option<Self> {
        let settings = fit::fitting_settings(planned, bytes)?;
        let mut table = planned.recipe.to_table();
        let mut problems = selfplay_records::Problems::default();
        settings.iter().for_each(|one| one.apply(&mut table, &mut problems));
        let text = toml::to_string(&table).ok()?;
        let recipe = load_text(&text, "init", None, "init", &[], Purpose::Check).ok()?;
        let models = Models::of(&recipe, planned.device, planned.policy, planned.preference);
        let needs = memory::needs(&models, &recipe, Some(bytes));
        let peak = needs.iter().map(|need| need.bytes.total()).max().unwrap_or(0);
        let on_host = memory::offloaded_bytes(&models, &recipe.train, Some(bytes));
        Some(Self { settings, peak, on_host })
    }

    fn of_training(goal: InitGoal, planned: &Planned<'_>, bytes: u64) -> Option<Self> {
        let models = Models::of(planned.recipe, planned.device, planned.policy, planned.preference);
        let mut recipe = planned.recipe.clone();
        let settings = train_settings(goal, &mut recipe);
        let written = settings.micro_batch_tokens;
        let mut tokens = written.or_standard();
        loop {
            let peak = memory::training(&models, settings, Some(bytes)).total();
            if peak <= bytes {
                let key = format!("{}.micro_batch_tokens", goal.section());
                let changed =
                    (settings.micro_batch_tokens != written).then(|| Override::new(key, tokens.to_string()));
                let on_host = memory::offloaded_bytes(&models, settings, Some(bytes));
                return Some(Self { settings: changed.into_iter().collect(), peak, on_host });
            }
            if tokens <= memory::longest_pair(settings) {
                return None;
            }
            tokens /= 2;
            settings.micro_batch_tokens = tokens.into();
        }
    }
}

fn train_settings(goal: InitGoal, recipe: &mut Recipe) -> &mut TrainSettings {
    match goal {
        InitGoal::SelfPlay | InitGoal::Pairs => &mut recipe.train,
        InitGoal::Sft => &mut recipe.sft.train,
        InitGoal::PreferenceModel => &mut recipe.preference.train,
    }
}
