//! `selfplay run`: all iterations of a recipe, in a folder of its own.

use std::path::PathBuf;

use super::{chain, run_work};
use crate::chain::ChainText;
use crate::error::Result;
use crate::flags::Common;
use crate::recipe::{Purpose, load};
use crate::run::dir::RunDir;
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
    run_work::begin_together(recipe, &run, &runtime)
}
