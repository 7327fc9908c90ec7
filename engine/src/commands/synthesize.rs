//! `selfplay synthesize`: instructions or pairs made by models.

use std::path::PathBuf;

use selfplay_model::template_clock as clock;

use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::recipe::{Purpose, load};
use crate::runtime::Runtime;
use crate::signals::StopFlag;
use crate::synthesize::{self, SynthesisSetting};

/// The flags of `selfplay synthesize`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The recipe, with a section [synthesize]
    #[arg(long, value_name = "FILE")]
    pub recipe: PathBuf,
    /// The output's folder; absent: `runs/` and the recipe's name.
    #[arg(short, long, value_name = "DIR", help = "The output's folder [default: runs/<name>]")]
    pub output: Option<PathBuf>,
    /// Begin again where the folder holds a synthesis that is finished or has other settings
    #[arg(long)]
    pub force: bool,
}

/// Runs the command.
///
/// # Errors
/// As [`synthesize::run`].
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let runtime = Runtime::open(common)?;
    let recipe = load(Some(&args.recipe), &common.set, Purpose::Stage)?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from("runs").join(&recipe.name));
    // A synthesis that goes on renders its templates at the time at which it began.
    let earlier = if args.force { None } else { synthesize::earlier_clock(&output) };
    clock::fix(&earlier.map_or_else(clock::now, Ok)?)?;
    let earlier = if args.force { None } else { synthesize::earlier_settings(&output) };
    let stop = StopFlag::of_process()
        .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
    let setting = SynthesisSetting {
        device: &runtime.device,
        device_name: &runtime.device_name,
        kernels: hopper::take(&runtime.device, hopper::earlier_of(earlier.as_ref()))?,
        progress: &Progress::new(common.verbosity()),
        stop: &stop,
        force: args.force,
    };
    synthesize::run(&recipe, &output, &setting)
}
