//! `selfplay run`: all iterations of a recipe, in a folder of its own.

use std::path::PathBuf;

use selfplay_model::template_clock as clock;
use selfplay_records::atomic;

use super::chain;
use crate::chain::ChainText;
use crate::console::progress::Verbosity;
use crate::console::terminal;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::Inputs;
use crate::iteration;
use crate::iteration::session::Session;
use crate::recipe::{Purpose, Recipe, load};
use crate::report;
use crate::run::dir::RunDir;
use crate::run::events::Event;
use crate::run::lock::RunLock;
use crate::run::manifest::{Environment, Manifest};
use crate::run::unbegun::is_unbegun;
use crate::runtime::Runtime;

/// The flags of `selfplay run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The recipe
    pub recipe: PathBuf,
    /// The run folder; absent: `runs/` and the recipe's name.
    #[arg(short, long, value_name = "DIR", help = "The run folder [default: runs/<name>]")]
    pub output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Wrong input, before a folder is made; whatever a stage meets; a stop by a signal.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let folder_of = |name: &str| args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(name));
    if let Some(text) = ChainText::read(&args.recipe, &common.set)? {
        let folder = folder_of(&text.name);
        return chain::begin(text, &folder, common);
    }
    let runtime = Runtime::open(common)?;
    let recipe = load(Some(&args.recipe), &common.set, Purpose::Run)?;
    let run = RunDir::new(folder_of(&recipe.name));
    begin(recipe, &run, &runtime)?;
    print_table(&run, &runtime)
}

/// Runs a recipe in a folder that is free.
///
/// # Errors
/// As the command.
pub(super) fn begin(recipe: Recipe, run: &RunDir, runtime: &Runtime) -> Result<()> {
    refuse_occupied(&recipe, run)?;
    // One day for the whole run, whenever its parts are made.
    let time = clock::now()?;
    clock::fix(&time)?;
    let inputs = Inputs::read(&recipe, &[])?;
    inputs.check_models(&recipe, runtime)?;
    let mut manifest = fresh_manifest(&recipe, &inputs, runtime);
    manifest.template_clock = inputs.reads_clock.then_some(time);
    run.create()?;
    let lock = RunLock::take(run)?;
    // Another process may have begun here while the models loaded.
    refuse_occupied_unlocked(&recipe, run)?;
    write_recipe(&recipe, run)?;
    manifest.write(&run.manifest_file()).map_err(|error| error.in_run(run.root()))?;
    work("run", recipe, run, manifest, inputs, lock, runtime)
}

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
    lock: RunLock,
    runtime: &Runtime,
) -> Result<()> {
    let mut session = Session::open(command, recipe, run.clone(), manifest, inputs, lock, runtime)
        .map_err(|error| error.in_run(run.root()))?;
    if let Err(error) = iteration::run(&mut session) {
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
pub(super) fn print_table(run: &RunDir, runtime: &Runtime) -> Result<()> {
    if runtime.verbosity != Verbosity::Quiet {
        let table = report::render(&report::read(run)?);
        if let Err(error) = super::print(&table) {
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
