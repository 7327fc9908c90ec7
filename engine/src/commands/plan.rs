//! `selfplay plan`: what a recipe will need, before anything is computed.

use std::fmt::Write;

use candle_core::DType;
use selfplay_model::Architecture;

use super::estimate::{self, Bytes, Models, show};
use crate::cli::{Common, PlanArgs};
use crate::commands::print;
use crate::device::DeviceChoice;
use crate::error::Result;
use crate::hub;
use crate::recipe::{DataSource, Purpose, Recipe, WeightDType, load};

/// Runs the command. Of a hub's models only the configuration is fetched.
///
/// # Errors
/// A recipe or a model's configuration that is wrong.
pub fn run(args: &PlanArgs, common: &Common) -> Result<()> {
    let recipe = load(Some(&args.recipe), &common.set, Purpose::Check)?;
    let policy = Architecture::load(&hub::config_folder(&recipe.policy.model)?)?;
    let judge = Architecture::load(&hub::config_folder(&recipe.score.model)?)?;
    let models = Models {
        policy: &policy,
        judge: &judge,
        policy_dtype: computed_in(&policy, recipe.policy.dtype.map(WeightDType::to_candle), common.device),
        judge_dtype: computed_in(&judge, recipe.score.settings.dtype.tensor_dtype(), common.device),
    };
    print(&report(&recipe, &models, common.device)?)
}

/// f32 on the CPU; on CUDA what the recipe says, else as stored.
fn computed_in(model: &Architecture, asked: Option<DType>, device: DeviceChoice) -> DType {
    match device {
        DeviceChoice::Cpu => DType::F32,
        DeviceChoice::Cuda(_) => {
            asked.or(model.stored_dtype.map(|dtype| dtype.dtype())).unwrap_or(DType::F32)
        }
    }
}

fn report(recipe: &Recipe, models: &Models<'_>, device: DeviceChoice) -> Result<String> {
    let mut text = format!(
        "{}: {} iterations on {device}\n  policy            {} ({} parameters)\n  preference model  {} ({} parameters)\n",
        recipe.name,
        recipe.iterations,
        recipe.policy.model,
        count(models.policy),
        recipe.score.model,
        count(models.judge),
    );
    let training = estimate::training(models, &recipe.train);
    let sampling = estimate::sampling(models, recipe);
    section(&mut text, "memory while sampling and scoring", &sampling);
    section(&mut text, "memory while training", &training);
    let peak = sampling.total().max(training.total());
    line(&mut text, "peak of the two, about", &show(peak));

    let policy = estimate::policy_folder(models.policy, recipe);
    let checkpoint = estimate::checkpoint(models.policy, &recipe.train);
    let iterations = recipe.iterations as u64;
    text.push_str("\ndisk\n");
    line(&mut text, "a policy", &show(policy));
    line(&mut text, "a training checkpoint", &show(checkpoint));
    let mut total = iterations * policy + checkpoint * (recipe.keep_checkpoints as u64 + 1);
    match prompts(recipe)? {
        Some(prompts) => {
            let candidates = estimate::candidates(prompts, recipe);
            line(&mut text, "candidates, all, at most", &show(candidates));
            total += candidates;
            line(&mut text, "the whole run, at most", &show(total));
        }
        None => {
            line(
                &mut text,
                "a thousand prompts' candidates, at most",
                &show(estimate::candidates(1000, recipe)),
            );
            line(&mut text, "the run without candidates", &show(total));
        }
    }
    let _ = write!(text, "\ntime\n  not measured on {device}; the first shards of a run say it\n");
    Ok(text)
}

/// Prompts of all iterations, where the splits are files of this machine.
fn prompts(recipe: &Recipe) -> Result<Option<u64>> {
    let mut total = 0;
    for split in recipe.prompts.splits.iter().take(recipe.iterations) {
        let DataSource::File(_) = split else {
            // A hub's split need not be fetched where only so many of it are taken.
            match recipe.prompts.max_prompts {
                Some(most) => total += most as u64,
                None => return Ok(None),
            }
            continue;
        };
        let read = hub::prompts(split, &recipe.prompts.column, recipe.prompts.on_bad_prompt.to_records())?;
        total += recipe.prompts.max_prompts.unwrap_or(usize::MAX).min(read.prompts.len()) as u64;
    }
    Ok(Some(total))
}

fn section(text: &mut String, title: &str, bytes: &Bytes) {
    let _ = writeln!(text, "\n{title}");
    for part in &bytes.lines {
        line(text, part.what, &show(part.bytes));
    }
    line(text, "together", &show(bytes.total()));
}

fn line(text: &mut String, what: &str, value: &str) {
    let _ = writeln!(text, "  {what:<42}{value:>12}");
}

fn count(model: &Architecture) -> String {
    let parameters = model.parameter_count() as f64;
    match parameters {
        p if p >= 1e9 => format!("{:.2} billion", p / 1e9),
        p if p >= 1e6 => format!("{:.1} million", p / 1e6),
        p => format!("{p:.0}"),
    }
}
