//! A run in a folder that is made: to its end, and its table.

use selfplay_records::atomic;

use crate::commands::print;
use crate::console::progress::Verbosity;
use crate::console::terminal;
use crate::error::{EngineError, Result};
use crate::inputs::Inputs;
use crate::iteration;
use crate::iteration::session::{RunHold, Session};
use crate::recipe::Recipe;
use crate::report;
use crate::run::dir::RunDir;
use crate::run::events::Event;
use crate::run::manifest::Manifest;
use crate::runtime::Runtime;
use crate::tracking::RunEnd;

/// Takes up work in a folder that is made, to the end or to what stops it.
///
/// # Errors
/// Whatever a stage meets, with the line that names `resume`; a stop by a signal.
pub(super) fn work(
    command: &str,
    recipe: Recipe,
    run: &RunDir,
    manifest: Manifest,
    inputs: Inputs,
    hold: RunHold,
    runtime: &Runtime,
) -> Result<()> {
    let mut session = Session::open(command, recipe, run.clone(), manifest, inputs, hold, runtime)
        .map_err(|error| error.in_run(run.root()))?;
    let outcome = iteration::run(&mut session);
    let end = match &outcome {
        Ok(()) => RunEnd::Finished,
        Err(EngineError::Stopped { .. }) => RunEnd::Stopped,
        Err(_) => RunEnd::Failed,
    };
    session.tracking.finish(end, &session.progress);
    if let Err(error) = outcome {
        if let EngineError::Stopped { signal, .. } = &error {
            // The stop is what the user asked for: a log that cannot be written changes nothing about it.
            let _ = session.events.record(Event::Stopped { signal: signal.to_string() });
        }
        return Err(error.in_run(run.root()));
    }
    Ok(())
}

/// Prints the table of a run that is finished.
///
/// # Errors
/// A file of the run that does not read.
pub(in crate::commands) fn print_table(run: &RunDir, runtime: &Runtime) -> Result<()> {
    if runtime.verbosity != Verbosity::Quiet {
        let table = report::render(&report::read(run)?);
        if let Err(error) = print(&table) {
            // The run is whole: its table is read as well later on.
            let directory = run.root().display();
            terminal::line(&format!("{error}; the run is finished, read it with: selfplay show {directory}"));
        }
    }
    Ok(())
}

/// `recipe.toml`, resolved.
pub(super) fn write_recipe(recipe: &Recipe, run: &RunDir) -> Result<()> {
    Ok(atomic::write_bytes(&run.recipe_file(), recipe.to_toml().as_bytes())?)
}
