//! A run's work by all processes that a launcher started: rank 0 begins or goes on with it, the others work along.

use std::sync::Arc;

use selfplay_model::template_clock as clock;

use super::begin::begin;
use super::finish::print_table;
use super::go_on::{go_on, refuse_foreign};
use super::kernels::{take_settled, tell_kernels};
use crate::error::{EngineError, Result};
use crate::inputs::Inputs;
use crate::iteration::follow;
use crate::iteration::session::Session;
use crate::ranks::group::Ranks;
use crate::ranks::rank::Rank;
use crate::ranks::shared_work::SharedWork;
use crate::recipe::{Override, Purpose, RanksSection, Recipe, load};
use crate::run::dir::RunDir;
use crate::run::input_files::check_unchanged;
use crate::run::manifest::Manifest;
use crate::runtime::Runtime;

/// Runs a recipe in a folder that is free, to its table.
///
/// # Errors
/// Wrong input, before a folder is made; whatever a stage meets; another rank's failure; a stop by a signal.
pub(in crate::commands) fn begin_together(recipe: Recipe, run: &RunDir, runtime: &Runtime) -> Result<()> {
    let ranks = Ranks::meet(&recipe.ranks, run, &runtime.device)?;
    let outcome = match ranks.is_first() {
        true => begin(recipe, run, runtime, Arc::clone(&ranks)).and_then(|()| print_table(run, runtime)),
        false => work_along(run, runtime, &ranks, |of_run| {
            of_run.ranks = recipe.ranks.clone();
            refuse_other(&recipe, run)
        }),
    };
    part(&ranks, outcome)
}

/// Goes on with a run, to its table where anything was left.
///
/// # Errors
/// A folder that is in use, a key that it does not take, inputs that have changed; whatever a stage meets; another rank's failure; a stop by
/// a signal.
pub(in crate::commands) fn go_on_together(run: &RunDir, set: &[Override], runtime: &Runtime) -> Result<()> {
    refuse_foreign(set)?;
    let settings = match Rank::of_process().several() {
        false => RanksSection::default(),
        true => {
            run.check_begun()?;
            load(Some(&run.recipe_file()), set, Purpose::Reread)?.ranks
        }
    };
    let ranks = Ranks::meet(&settings, run, &runtime.device)?;
    let outcome = match ranks.is_first() {
        true => go_on(run, set, runtime, Arc::clone(&ranks)).and_then(|was_left| match was_left {
            true => print_table(run, runtime),
            false => Ok(()),
        }),
        false => work_along(run, runtime, &ranks, |of_run| {
            of_run.ranks = settings;
            Ok(())
        }),
    };
    part(&ranks, outcome)
}

/// That this rank was started with the recipe that rank 0 has begun.
fn refuse_other(recipe: &Recipe, run: &RunDir) -> Result<()> {
    let manifest = Manifest::read(&run.manifest_file())?;
    let keys = manifest.differing_keys(&recipe.to_table());
    if keys.is_empty() && manifest.iterations() == recipe.iterations {
        return Ok(());
    }
    Err(EngineError::input(format!(
        "this rank was started with another recipe than rank 0: {}; start all ranks with the same command",
        if keys.is_empty() { "iterations differ".to_owned() } else { keys.join(", ") }
    )))
}

/// What another rank does once rank 0 has begun: it reads what the run reads, by itself, and must find the same. `settle` gives the recipe
/// what a process has of its own, and looks whether it is the right one.
fn work_along(
    run: &RunDir,
    runtime: &Runtime,
    ranks: &Arc<Ranks>,
    settle: impl FnOnce(&mut Recipe) -> Result<()>,
) -> Result<()> {
    tell_kernels(run, runtime, ranks)?;
    let work = ranks.next_work()?;
    if work == SharedWork::Finished {
        return Ok(());
    }
    take_settled(runtime, ranks);
    ranks.enter("read the inputs");
    let manifest = Manifest::read(&run.manifest_file())?;
    let mut recipe = load(Some(&run.recipe_file()), &[], Purpose::Reread)?;
    settle(&mut recipe)?;
    if let Some(time) = &manifest.template_clock {
        clock::fix(time)?;
    }
    let inputs = Inputs::read(&recipe, &manifest.hub)?;
    check_unchanged(&manifest.inputs, &inputs.files, false)?;
    manifest.check_prompts(&run.manifest_file(), inputs.training.iter().map(Vec::len))?;
    let session = Session::follow(recipe, run.clone(), manifest, inputs, Arc::clone(ranks), runtime)?;
    ranks.ready()?;
    follow(&session, work)
}

/// Tells the other ranks how this one ends. What the user asked for by a signal is said by rank 0 alone, and a failure by the rank that has
/// met it and by rank 0.
fn part(ranks: &Ranks, outcome: Result<()>) -> Result<()> {
    let outcome = ranks.settled(outcome);
    let left_by = ranks.end(&outcome);
    match (outcome, left_by.filter(|_| ranks.is_first())) {
        // A launcher says 0 of no launch one of whose processes has left in the middle.
        (Ok(()), Some(signal)) => {
            let kept =
                "a rank had left by then; the run is finished, and selfplay resume finds nothing left to do"
                    .to_owned();
            Err(EngineError::Stopped { signal, kept })
        }
        (Err(error), _) if !ranks.is_first() && (error.signal().is_some() || error.is_of_another_rank()) => {
            Err(EngineError::EndedElsewhere { status: error.exit_status() })
        }
        (outcome, _) => outcome,
    }
}
