//! A run that has begun, from where it stopped; with further iterations, where more are asked for.

use std::sync::Arc;

use selfplay_model::template_clock as clock;

use super::finish::{work, write_recipe};
use super::kernels::settle_kernels;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::hub::HubPin;
use crate::inputs::Inputs;
use crate::iteration::session::RunHold;
use crate::ranks::group::Ranks;
use crate::recipe::{Override, Purpose, Recipe, load};
use crate::run::dir::RunDir;
use crate::run::input_files::check_unchanged;
use crate::run::leaves::Leaves;
use crate::run::lock::RunLock;
use crate::run::manifest::{Manifest, flatten};
use crate::runtime::Runtime;

/// Goes on with a run, as a process by itself or as rank 0; whether anything was left to do.
///
/// # Errors
/// A folder that is in use, a key that it does not take, inputs that have changed; whatever a stage meets; a stop by a signal.
pub(in crate::commands) fn go_on(
    run: &RunDir,
    set: &[Override],
    runtime: &Runtime,
    ranks: Arc<Ranks>,
) -> Result<bool> {
    refuse_foreign(set)?;
    let directory = run.root().to_path_buf();
    run.check_begun()?;
    let lock = RunLock::take(run)?;
    let mut manifest = Manifest::read(&run.manifest_file())?;
    let recipe = load(Some(&run.recipe_file()), set, Purpose::Reread)?;
    let keys = manifest.differing_keys(&recipe.to_table());
    if !keys.is_empty() {
        return Err(EngineError::OtherRecipe { directory, keys });
    }
    let begun = begun(run, manifest.prompts.len())?;
    if recipe.iterations < begun {
        return Err(EngineError::TooFewIterations { directory, wanted: recipe.iterations, begun });
    }
    let unchanged = recipe.iterations == manifest.iterations();
    if unchanged && manifest.is_finished() && is_complete(run, &manifest, &recipe)? {
        let progress = Progress::new(runtime.verbosity);
        progress.line(format!(
            "{}: finished, nothing is left to do; read it with: selfplay show {}",
            directory.display(),
            directory.display()
        ));
        return Ok(false);
    }
    let time = match &manifest.template_clock {
        Some(time) => time.clone(),
        None => clock::now()?,
    };
    clock::fix(&time)?;
    let inputs = Inputs::read(&recipe, &manifest.hub)?;
    check_unchanged(&manifest.inputs, &inputs.files, !unchanged)?;
    manifest.check_prompts(&run.manifest_file(), inputs.training.iter().map(Vec::len))?;
    let recorded = manifest.began_with();
    let kernels = settle_kernels(recorded, runtime, &ranks)?;
    if recorded.is_none() && kernels.is_some() {
        // A CPU has begun the run: what its first GPU takes is kept from here on.
        manifest.hopper_kernels = kernels;
        manifest.write(&run.manifest_file()).map_err(|error| error.in_run(&directory))?;
    }
    if !unchanged
        || manifest.inputs.len() < inputs.files.len()
        || manifest.prompts.len() < inputs.training.len()
        || manifest.hub != HubPin::merged(&manifest.hub, &inputs.hub)
    {
        extend(&mut manifest, &recipe, &inputs)?;
        // The recipe first: a kill in between leaves a larger `iterations` in it, which the next resume takes up.
        write_recipe(&recipe, run).map_err(|error| error.in_run(&directory))?;
        manifest.write(&run.manifest_file()).map_err(|error| error.in_run(&directory))?;
    }
    work("resume", recipe, run, manifest, inputs, RunHold { lock, ranks }, runtime)?;
    Ok(true)
}

/// Keys that a resume does not take: all but `iterations` and those of `[ranks]`, which no result depends on.
pub(super) fn refuse_foreign(set: &[Override]) -> Result<()> {
    let is_taken = |key: &str| key == "iterations" || key.starts_with("ranks.");
    let keys: Vec<String> = set.iter().filter(|one| !is_taken(&one.key)).map(|one| one.key.clone()).collect();
    if keys.is_empty() { Ok(()) } else { Err(EngineError::ResumeKeys { keys }) }
}

/// Takes further iterations and inputs that were not hashed yet into the manifest.
fn extend(manifest: &mut Manifest, recipe: &Recipe, inputs: &Inputs) -> std::result::Result<(), EngineError> {
    if inputs.reads_clock && manifest.template_clock.is_none() {
        manifest.template_clock = Some(clock::now()?);
    }
    manifest.recipe = flatten(&recipe.to_table());
    manifest.prompts = inputs.training.iter().map(Vec::len).collect();
    manifest.skipped_prompts.clone_from(&inputs.skipped);
    manifest.hub = HubPin::merged(&manifest.hub, &inputs.hub);
    for (kind, files) in &inputs.files {
        manifest.inputs.insert(*kind, files.clone());
    }
    Ok(())
}

/// The last iteration with anything on disk.
fn begun(run: &RunDir, known: usize) -> Result<usize> {
    let absent = crate::run::stages_left::IterationState::default();
    let mut last = 0;
    for iteration in 1..=known {
        if run.iteration(iteration).state()? != absent {
            last = iteration;
        }
    }
    Ok(last)
}

/// Whether every finished iteration still has its policy, its summary and what was measured on held-out prompts, as the start has.
fn is_complete(run: &RunDir, manifest: &Manifest, recipe: &Recipe) -> Result<bool> {
    let evaluates = manifest.held_out > 0;
    if evaluates && !run.start().is_done() {
        return Ok(false);
    }
    for number in 1..=manifest.iterations() {
        let state = run.iteration(number).state()?;
        let leaves = Leaves::of(&recipe.train, number >= recipe.iterations);
        if !state.has(leaves) || !state.summarized || evaluates && !state.evaluated {
            return Ok(false);
        }
    }
    Ok(true)
}
