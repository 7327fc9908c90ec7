//! `selfplay plan` of a chain: each link's memory and disk; of a run all that `plan` tells of one.
//!
//! A model that an earlier link makes has the shape of the one that link begins with.

use std::fmt::Write;
use std::path::PathBuf;

use selfplay_model::Architecture;
use selfplay_scorer::Footprint;
use selfplay_trainer::TrainSettings;

use super::run_plan::{self, PlanTarget};
use crate::chain::{Chain, ChainPurpose, ChainText, Link, training_of};
use crate::commands::print;
use crate::console::units::{count, size, size_at_least};
use crate::error::{EngineError, Result};
use crate::inputs::model_files::config_folder;
use crate::plan::host_room::HostPlan;
use crate::plan::memory::{self, Models};
use crate::plan::micro_batch;
use crate::plan::smaller::smaller;
use crate::recipe::{LinkCommand, ModelSource, Recipe};
use crate::run::leaves::Leaves;

/// Plans every link; what does not fit is refused after the reports of all.
///
/// # Errors
/// A recipe or a model's configuration that is wrong; the first link that needs more memory than there is.
pub(super) fn plan(text: ChainText, asked: &PlanTarget) -> Result<()> {
    let folder = PathBuf::from("runs").join(&text.name);
    let chain = text.resolve(&folder, ChainPurpose::Check)?;
    let mut refusal = None;
    for (place, link) in chain.links.iter().enumerate() {
        let mut text = if place == 0 {
            format!("{}: a chain of {} links\n", chain.name, chain.links.len())
        } else {
            String::new()
        };
        let _ = writeln!(text, "\nlink {} ({}) on {}", link.name, link.command.name(), link.model());
        let recipe = with_shapes(&chain, link);
        let found = match training_of(link.command, &recipe) {
            Some(settings) => training(&mut text, link, settings, &recipe, asked),
            None if link.command == LinkCommand::Merge => merge(&mut text, &recipe),
            None if link.command == LinkCommand::Synthesize => {
                text.push_str("  not planned: it depends on the rows that models write\n");
                Ok(None)
            }
            None => run_plan::plan(&recipe, asked).map(|(report, error)| {
                text.push_str(&report);
                error.map(|error| of_link(&error, link))
            }),
        };
        let found = found.map_err(|error| EngineError::At {
            place: format!("link {}", link.name),
            source: Box::new(error),
        })?;
        print(&text)?;
        refusal = refusal.or(found);
    }
    refusal.map_or(Ok(()), Err)
}

/// The link's recipe with, in the place of models that earlier links make, those that they begin with.
fn with_shapes(chain: &Chain, link: &Link) -> Recipe {
    let mut recipe = link.recipe.clone();
    let begins_with = |source: &ModelSource| {
        let mut source = source.clone();
        while let ModelSource::Folder(folder) = &source {
            let Some(maker) = chain.maker(folder) else { break };
            source = maker.recipe.policy.model.clone();
        }
        source
    };
    recipe.policy.model = begins_with(&recipe.policy.model);
    recipe.policy.adapter = begins_with(&recipe.policy.adapter);
    recipe.score.model = begins_with(&recipe.score.model);
    recipe
}

fn training(
    text: &mut String,
    link: &Link,
    settings: &TrainSettings,
    recipe: &Recipe,
    asked: &PlanTarget,
) -> Result<Option<EngineError>> {
    let section = link.command.training_section().unwrap_or_default();
    let folder = config_folder(&recipe.policy.model)?;
    let policy = memory::policy_shape(&folder)?;
    let recipe = &run_plan::as_stored(recipe, &folder);
    run_plan::check_adapter(recipe, settings, &policy)?;
    let nothing = Footprint::elsewhere();
    let models = Models::of(recipe, asked.device, &policy, &nothing);
    let bound = asked.memory.as_ref().map(|memory| memory.bytes);
    let mut settled = settings.clone();
    let pass = micro_batch::settle(&models, &mut settled, bound);
    let settings = &settled;
    let bytes = memory::training(&models, settings, bound);
    let _ = writeln!(text, "  {} parameters", count(policy.parameter_count() as u64));
    run_plan::section(text, "memory while training", &bytes);
    run_plan::pass_line(text, pass);
    let offloaded = memory::offloaded_bytes(&models, settings, bound);
    run_plan::host_section(text, offloaded, asked.host.as_ref());
    run_plan::available(text, asked.memory.as_ref(), asked.device);
    let as_trained = Recipe { train: settings.clone(), ..recipe.clone() };
    disk(text, &policy, &as_trained);
    let Some(memory) = asked.memory.as_ref().filter(|memory| bytes.total() > memory.bytes) else {
        let plan = HostPlan {
            name: &format!("link {}", link.name),
            models: &models,
            settings,
            section: &format!("{}.{section}", link.key()),
            device: bound,
        };
        return Ok(asked.host.as_ref().and_then(|host| plan.refusal(host)));
    };
    let need = format!(
        "link {} needs about {} for training, more than the {} of {}",
        link.name,
        size_at_least(bytes.total()),
        size(memory.bytes),
        memory.owner
    );
    let fitting = smaller(settings).into_iter().find_map(|(set, settings)| {
        let least = memory::training(&models, &settings, bound).total();
        (least <= memory.bytes).then_some((set, least))
    });
    let remedy = match fitting {
        Some((set, least)) => {
            let set: Vec<String> =
                set.iter().map(|set| format!("--set {}.{section}.{set}", link.key())).collect();
            format!("with {} {} is enough", set.join(" "), size(least))
        }
        None => {
            let alone = size(memory::training_state(&models, settings));
            let what = match memory::may_offload(&models, settings) {
                true => "weights and gradients",
                false => "weights, gradients and optimizer state",
            };
            let key = link.key();
            format!(
                "{what} alone take {alone}; an adapter ([{key}.{section}.lora]) over four bits \
                 (policy.quantize) takes less"
            )
        }
    };
    Ok(Some(EngineError::input(format!("{need}; {remedy}"))))
}

fn disk(text: &mut String, policy: &Architecture, recipe: &Recipe) {
    let leaves = Leaves::of(&recipe.train, true);
    text.push_str("\ndisk\n");
    if leaves.model {
        run_plan::line(text, "the model", &size(memory::policy_folder(policy, recipe)));
    }
    if leaves.adapter {
        run_plan::line(text, "the adapter", &size(memory::adapter_folder(policy, recipe)));
    }
    run_plan::line(text, "a training checkpoint", &size(memory::checkpoint(policy, &recipe.train)));
}

fn merge(text: &mut String, recipe: &Recipe) -> Result<Option<EngineError>> {
    let policy = memory::policy_shape(&config_folder(&recipe.policy.model)?)?;
    text.push_str("\ndisk\n");
    run_plan::line(text, "the model", &size(memory::policy_folder(&policy, recipe)));
    Ok(None)
}

/// A run's refusal with the link's name in the keys that it proposes.
fn of_link(error: &EngineError, link: &Link) -> EngineError {
    EngineError::input(error.to_string().replace("--set ", &format!("--set {}.", link.key())))
}
