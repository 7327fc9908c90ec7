//! `selfplay branch`: a new run that shares everything up to and with a stage of another.

use std::path::PathBuf;

use selfplay_records::atomic;

use crate::chain::dir::refuse_chain;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::recipe::{Purpose, load};
use crate::run::branch::{check_finished, make, shared_keys, shared_loss};
use crate::run::branch_point::BranchPoint;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;

/// The flags of `selfplay branch`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The run folder to share from
    pub run: PathBuf,
    /// The last stage to share: iteration_NN/candidates, iteration_NN/preferences or iteration_NN/pairs
    #[arg(long, value_name = "STAGE")]
    pub from: String,
    /// The new run folder
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
}

/// Runs the command. No model is opened and nothing is computed.
///
/// # Errors
/// A folder that is no run's, an unfinished stage, a key of a shared stage, an output folder that exists.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let progress = Progress::new(common.verbosity());
    branch(args, common, &progress)
}

fn branch(args: &Args, common: &Common, progress: &Progress) -> Result<()> {
    let source = RunDir::new(&args.run);
    refuse_chain(&args.run, "only a run has stages to share")?;
    source.check_begun()?;
    let from: BranchPoint = args.from.parse()?;
    let parent = Manifest::read(&source.manifest_file())?;
    let before = load(Some(&source.recipe_file()), &[], Purpose::Reread)?;
    let recipe = load(Some(&source.recipe_file()), &common.set, Purpose::Reread)?;
    let changed = before.differing_keys(&recipe);
    let mut shared = shared_keys(&changed, from);
    shared.extend(shared_loss(&before, &recipe, from));
    if !shared.is_empty() {
        return Err(EngineError::SharedKeys { keys: shared, from: from.to_string() });
    }
    check_finished(&source, &parent, from)?;
    if recipe.iterations < from.iteration {
        return Err(EngineError::TooFewIterations {
            directory: args.run.clone(),
            wanted: recipe.iterations,
            begun: from.iteration,
        });
    }
    if args.output.symlink_metadata().is_ok() {
        return Err(EngineError::Occupied { directory: args.output.clone() });
    }
    atomic::remove_leftovers(&args.output);
    let sharing = make(&source, &parent, &recipe, from, &changed, &args.output)?;
    let copies = if sharing.copied > 0 {
        format!(", {} copied because the folders lie on different file systems", sharing.copied)
    } else {
        String::new()
    };
    let keys = if changed.is_empty() {
        "no key changed".to_owned()
    } else {
        format!("changed: {}", changed.join(", "))
    };
    progress.line(format!(
        "{}: shares {} files with {} up to {from}{copies}; {keys}",
        args.output.display(),
        sharing.linked,
        args.run.display()
    ));
    progress.line(format!("go on with: selfplay resume {}", args.output.display()));
    Ok(())
}
