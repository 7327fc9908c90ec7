//! The report of `plan` on a run: memory, disk and time.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use selfplay_model::architecture::is_stored_in_four_bits;
use selfplay_model::{Architecture, Codec};
use selfplay_scorer::{Footprint, QuantizeForm};
use selfplay_trainer::{TrainSettings, check_fresh_adapter};

use crate::console::units::{count, duration, size};
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::hub;
use crate::inputs::model_files::config_folder;
use crate::inputs::usable_prompts::without_stop;
use crate::plan::device::AvailableMemory;
use crate::plan::fit::{self, Planned};
use crate::plan::host_room::HostPlan;
use crate::plan::lengths::Lengths;
use crate::plan::memory::{self, MemoryBreakdown, Models, Need};
use crate::plan::micro_batch;
use crate::plan::rates::Rates;
use crate::plan::time::{self, StageTime, Times};
use crate::recipe::{DataSource, Recipe};
use crate::run::leaves::Leaves;

/// Where a recipe is planned for.
pub(super) struct PlanTarget {
    pub(super) device: DeviceChoice,
    /// What there is, where it is known.
    pub(super) memory: Option<AvailableMemory>,
    /// What its host has, where it is known.
    pub(super) host: Option<AvailableMemory>,
    pub(super) rates: Rates,
}

/// A recipe with the shapes of its models.
pub(super) struct RunShapes {
    /// With the form that its policy is stored in.
    pub(super) recipe: Recipe,
    pub(super) policy: Architecture,
    pub(super) preference: Footprint,
    /// Of the policy's configuration.
    pub(super) policy_folder: PathBuf,
}

impl RunShapes {
    /// # Errors
    /// A model's configuration that is wrong, or not to be had.
    pub(super) fn load(recipe: &Recipe) -> Result<Self> {
        let policy_folder = config_folder(&recipe.policy.model)?;
        let policy = memory::policy_shape(&policy_folder)?;
        let recipe = as_stored(recipe, &policy_folder);
        check_adapter(&recipe, &recipe.train, &policy)?;
        let kind = &recipe.score.settings.kind;
        let preference_folder = kind.names_model().then(|| config_folder(&recipe.score.model)).transpose()?;
        let preference = Footprint::of_folder(preference_folder.as_deref(), kind)?;
        Ok(Self { recipe, policy, preference, policy_folder })
    }

    /// Settles how many tokens a pass of the training has, where the recipe leaves that open; what they are. `memory` is the device's.
    pub(super) fn settle_passes(&mut self, device: DeviceChoice, memory: Option<u64>) -> Option<usize> {
        let mut settings = self.recipe.train.clone();
        let models = Models::of(&self.recipe, device, &self.policy, &self.preference);
        let tokens = micro_batch::settle(&models, &mut settings, memory);
        self.recipe.train = settings;
        tokens
    }
}

/// That a training can put its adapter over a policy of this shape: what cannot be is not planned.
///
/// # Errors
/// Target modules or ranks that the shape does not have.
pub(super) fn check_adapter(recipe: &Recipe, settings: &TrainSettings, policy: &Architecture) -> Result<()> {
    // Over an adapter no fresh one is put.
    match recipe.policy.adapter.is_unset() {
        true => Ok(check_fresh_adapter(settings, policy)?),
        false => Ok(()),
    }
}

/// The report of a run's recipe, and the error where it does not fit.
///
/// # Errors
/// A model's configuration or a file of prompts that is wrong.
pub(super) fn plan(recipe: &Recipe, asked: &PlanTarget) -> Result<(String, Option<EngineError>)> {
    let (device, memory) = (asked.device, asked.memory.as_ref());
    let bound = memory.map(|memory| memory.bytes);
    let mut shapes = RunShapes::load(recipe)?;
    let pass = shapes.settle_passes(device, bound);
    let RunShapes { recipe, policy, preference, policy_folder } = &shapes;

    let models = Models::of(recipe, device, policy, preference);
    let needs = memory::needs(&models, recipe, bound);
    let prompts = prompts(recipe)?;
    let times = time::times(recipe, &models, &asked.rates, prompts, bound);
    let mut text = head(recipe, &models);
    memory_section(&mut text, &needs, memory, device);
    pass_line(&mut text, pass);
    host_section(&mut text, memory::offloaded_bytes(&models, &recipe.train, bound), asked.host.as_ref());
    disk_section(&mut text, recipe, policy, prompts);
    let lengths = Lengths::of(recipe, policy);
    time_section(&mut text, &times, lengths, prompts, device);
    // Of a hub's model the tokenizer is not there, and nothing is known of its stop ids.
    if let Ok(ids) = Codec::load(policy_folder, recipe.policy.chat_template.as_deref())
        .and_then(|codec| codec.stop_ids(policy_folder))
        && let Some(note) = without_stop(&ids, &recipe.sample)
    {
        let _ = writeln!(text, "\n{note}");
    }
    let planned = Planned { recipe, policy, preference, device };
    let refusal = memory.and_then(|memory| fit::refusal(&planned, &needs, memory));
    let host_plan = HostPlan {
        name: &recipe.name,
        models: &models,
        settings: &recipe.train,
        section: "train",
        device: bound,
    };
    let refusal = refusal.or_else(|| host_plan.refusal(asked.host.as_ref()?));
    Ok((text, refusal))
}

/// What a training leaves to the host's memory, and what that has.
pub(super) fn host_section(text: &mut String, offloaded: u64, host: Option<&AvailableMemory>) {
    if offloaded == 0 {
        return;
    }
    line(text, "in the host's memory, while training", &size(offloaded));
    if let Some(host) = host {
        line(text, &format!("there is ({})", host.owner), &size(host.bytes));
    }
}

/// The recipe with the form that its policy, whose configuration is in `folder`, is stored in.
pub(super) fn as_stored(recipe: &Recipe, folder: &Path) -> Recipe {
    let mut recipe = recipe.clone();
    if is_stored_in_four_bits(folder) {
        recipe.policy.quantize = Some(QuantizeForm::Nf4);
    }
    recipe
}

fn head(recipe: &Recipe, models: &Models<'_>) -> String {
    let preference = if models.preference.is_elsewhere() {
        "another program".to_owned()
    } else {
        format!("{} parameters", count(models.preference.parameters))
    };
    format!(
        "{}: {} iterations on {}\n  policy            {} ({} parameters)\n  preference model  {} ({preference})\n",
        recipe.name,
        recipe.iterations,
        models.device,
        recipe.policy.model,
        count(models.policy.parameter_count() as u64),
        recipe.score.title(),
    )
}

fn memory_section(text: &mut String, needs: &[Need], memory: Option<&AvailableMemory>, device: DeviceChoice) {
    for need in needs {
        section(text, &format!("memory while {}", need.phase.name()), &need.bytes);
    }
    let peak = needs.iter().map(|need| need.bytes.total()).max().unwrap_or(0);
    line(text, "the most of these, about", &size(peak));
    available(text, memory, device);
}

/// Tokens of a training pass, where `auto` takes them.
pub(super) fn pass_line(text: &mut String, tokens: Option<usize>) {
    if let Some(tokens) = tokens {
        line(text, "micro_batch_tokens = \"auto\" takes", &tokens.to_string());
    }
}

/// What the device has.
pub(super) fn available(text: &mut String, memory: Option<&AvailableMemory>, device: DeviceChoice) {
    match memory {
        Some(memory) => line(text, &format!("there is ({})", memory.owner), &size(memory.bytes)),
        None => {
            let _ = writeln!(
                text,
                "  what {device} has is not known here: nothing is refused without --memory SIZE"
            );
        }
    }
}

fn disk_section(text: &mut String, recipe: &Recipe, policy: &Architecture, prompts: Option<u64>) {
    let folder = memory::policy_folder(policy, recipe);
    let checkpoint = memory::checkpoint(policy, &recipe.train);
    text.push_str("\ndisk\n");
    line(text, "a policy", &size(folder));
    let adapter = memory::adapter_folder(policy, recipe);
    if adapter > 0 {
        line(text, "an adapter", &size(adapter));
    }
    line(text, "a training checkpoint", &size(checkpoint));
    let merged = |number| Leaves::of(&recipe.train, number == recipe.iterations).model;
    let policies = (1..=recipe.iterations).filter(|&number| merged(number)).count() as u64;
    let mut total = policies * folder
        + recipe.iterations as u64 * adapter
        + checkpoint * (recipe.keep_checkpoints as u64 + 1);
    match prompts {
        Some(prompts) => {
            let candidates = memory::candidates(prompts, recipe);
            line(text, "candidates, all, at most", &size(candidates));
            total += candidates;
            line(text, "the whole run, at most", &size(total));
        }
        None => {
            let candidates = memory::candidates(time::UNIT, recipe);
            line(text, "a thousand prompts' candidates, at most", &size(candidates));
            line(text, "the run without candidates", &size(total));
        }
    }
}

fn time_section(
    text: &mut String,
    times: &Times,
    lengths: Lengths,
    prompts: Option<u64>,
    device: DeviceChoice,
) {
    let Lengths { prompt, response, .. } = lengths;
    let _ = writeln!(
        text,
        "\ntime, at most, on a machine as fast as the measured one: prompts of {prompt} tokens, responses of {response}, {} of {}",
        lengths.rows(),
        lengths.pair()
    );
    let first = if prompts.is_some() { "an iteration" } else { "1000 prompts" };
    let whole = prompts.map_or(String::new(), |prompts| format!("all {prompts} prompts"));
    let _ = writeln!(text, "  {:<42}{first:>12}{whole:>20}", "");
    for time in times.stages.iter().chain(&times.together) {
        time_line(text, time);
    }
    for time in &times.each_iteration {
        let seconds = time.seconds.map_or("not measured".to_owned(), duration);
        line(text, &format!("and each iteration {}", time.what), &seconds);
    }
    for source in &times.sources {
        let _ = writeln!(text, "  {source}");
    }
    if !times.sources.is_empty() {
        text.push_str("  no bound on another machine, or beside other programs: measure this one with selfplay bench --json, and give that with --rates\n");
    }
    if let Some((_, dtype)) = times.unmeasured.first() {
        let _ = writeln!(
            text,
            "  nothing is measured for {device} in {} yet: benches/gpu.sh, or selfplay bench reference sample score train \
             --device {device} --json FILE, measures it; give what it wrote with --rates",
            dtype.as_str()
        );
    }
}

fn time_line(text: &mut String, time: &StageTime) {
    let seconds = time.seconds.map_or("not measured".to_owned(), duration);
    let whole = time.whole.map_or(String::new(), duration);
    let row = format!("  {:<42}{seconds:>12}{whole:>20}", time.what);
    let _ = writeln!(text, "{}", row.trim_end());
}

/// Prompts of all iterations, where the splits are files of this machine.
pub(super) fn prompts(recipe: &Recipe) -> Result<Option<u64>> {
    let mut total = 0;
    for split in recipe.prompts.splits.iter().take(recipe.iterations) {
        let DataSource::File(file) = split else {
            // A hub's split need not be fetched where only so many of it are taken.
            match recipe.prompts.max_prompts {
                Some(most) => total += most as u64,
                None => return Ok(None),
            }
            continue;
        };
        let on_bad = recipe.prompts.on_bad_prompt.to_records();
        let read = hub::prompts(std::slice::from_ref(file), &recipe.prompts.column, on_bad, false)?;
        total += recipe.prompts.max_prompts.unwrap_or(usize::MAX).min(read.prompts.len()) as u64;
    }
    Ok(Some(total))
}

pub(super) fn section(text: &mut String, title: &str, bytes: &MemoryBreakdown) {
    let _ = writeln!(text, "\n{title}");
    for part in &bytes.items {
        line(text, part.what, &size(part.bytes));
    }
    line(text, "together", &size(bytes.total()));
}

pub(super) fn line(text: &mut String, what: &str, value: &str) {
    let _ = writeln!(text, "  {what:<42}{value:>12}");
}
