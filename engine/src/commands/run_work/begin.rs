//! The beginning of a run.

use std::sync::Arc;

use selfplay_model::template_clock as clock;

use super::finish::{work, write_recipe};
use super::kernels::settle_kernels;
use crate::error::{EngineError, Result};
use crate::inputs::Inputs;
use crate::iteration::policy_share::is_never_whole;
use crate::iteration::session::RunHold;
use crate::ranks::group::Ranks;
use crate::recipe::Recipe;
use crate::run::dir::RunDir;
use crate::run::lock::RunLock;
use crate::run::manifest::{Environment, Manifest};
use crate::run::unbegun::is_unbegun;
use crate::runtime::Runtime;
use crate::tracking::Tracking;

/// Runs a recipe in a folder that is free, as a process by itself or as rank 0.
///
/// # Errors
/// Wrong input, before a folder is made; whatever a stage meets; a stop by a signal.
pub(in crate::commands) fn begin(
    recipe: Recipe,
    run: &RunDir,
    runtime: &Runtime,
    ranks: Arc<Ranks>,
) -> Result<()> {
    refuse_occupied(&recipe, run)?;
    Tracking::check(&recipe.log)?;
    // One day for the whole run, whenever its parts are made.
    let time = clock::now()?;
    clock::fix(&time)?;
    let inputs = Inputs::read(&recipe, &[])?;
    let kernels = settle_kernels(None, runtime, &ranks)?;
    let shares = if is_never_whole(&recipe, &inputs, &ranks) { ranks.world() } else { 1 };
    inputs.check_models(&recipe, runtime, shares)?;
    let mut manifest = fresh_manifest(&recipe, &inputs, runtime);
    manifest.hopper_kernels = kernels;
    manifest.template_clock = inputs.reads_clock.then_some(time);
    run.create()?;
    let lock = RunLock::take(run)?;
    // Another process may have begun here while the models loaded.
    refuse_occupied_unlocked(&recipe, run)?;
    write_recipe(&recipe, run)?;
    manifest.write(&run.manifest_file()).map_err(|error| error.in_run(run.root()))?;
    work("run", recipe, run, manifest, inputs, RunHold { lock, ranks }, runtime)
}

fn fresh_manifest(recipe: &Recipe, inputs: &Inputs, runtime: &Runtime) -> Manifest {
    let mut manifest =
        Manifest::new(&recipe.to_table(), recipe.seed, Environment::here(&runtime.device_name));
    manifest.prompts = inputs.training.iter().map(Vec::len).collect();
    manifest.skipped_prompts.clone_from(&inputs.skipped);
    manifest.held_out = inputs.held_out.len();
    manifest.shard_prompts = recipe.sample.shard_prompts;
    manifest.inputs.clone_from(&inputs.files);
    manifest.hub.clone_from(&inputs.hub);
    manifest
}

/// A folder that exists must be an unbegun run's; its lock is asked first, so that a run in progress says so.
fn refuse_occupied(recipe: &Recipe, run: &RunDir) -> Result<()> {
    let directory = run.root();
    if directory.is_symlink() && !directory.exists() {
        let directory = directory.display();
        return Err(EngineError::input(format!("{directory}: is a link to nothing; name a folder with -o")));
    }
    if directory.is_dir() {
        run.refuse_links()?;
    }
    if directory.is_dir() && run.lock_file().is_file() {
        RunLock::take(run)?;
    }
    refuse_occupied_unlocked(recipe, run)
}

fn refuse_occupied_unlocked(recipe: &Recipe, run: &RunDir) -> Result<()> {
    let directory = run.root().to_path_buf();
    if run.manifest_file().is_file() {
        let manifest = Manifest::read(&run.manifest_file())?;
        let mut keys = manifest.differing_keys(&recipe.to_table());
        if manifest.iterations() != recipe.iterations {
            keys.push(format!("iterations ({} here, {} given)", manifest.iterations(), recipe.iterations));
        }
        return Err(if !keys.is_empty() {
            EngineError::OtherRecipe { directory, keys }
        } else if manifest.is_finished() {
            EngineError::Finished { directory, iterations: manifest.iterations() }
        } else {
            EngineError::Unfinished { directory }
        });
    }
    if directory.exists() && !is_unbegun(&directory)? {
        return Err(EngineError::Occupied { directory });
    }
    Ok(())
}
