//! `selfplay plan`: what a recipe will need, before anything is computed. What cannot fit is refused, after the report.

use std::path::PathBuf;

use super::chain_plan;
use super::check::is_synthesis;
use super::cluster_plan::{self, ClusterArgs, ClusterTarget};
use super::run_plan::{self, PlanTarget};
use crate::chain::ChainText;
use crate::commands::print;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::plan::device::{self, ByteSize};
use crate::plan::rates::Rates;
use crate::recipe::{Purpose, load};
use crate::synthesize;

/// The flags of `selfplay plan`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The recipe
    pub recipe: PathBuf,
    /// What needs more memory is refused; absent: what the device has.
    #[arg(long, value_name = "SIZE", help = "Refuse what needs more: 141GB, 24GiB [what there is]")]
    pub memory: Option<ByteSize>,
    /// What a training leaves to the host of a GPU must fit into it; absent: what this machine has, unless --memory is given.
    #[arg(long, value_name = "SIZE", help = "Memory of the GPU's machine: 128GB [this one's]")]
    pub host_memory: Option<ByteSize>,
    /// Times from here too: of bench --json, or of gpu.sh
    ///
    /// What `selfplay bench --json` wrote, or a folder of benches/gpu.sh.
    #[arg(long, value_name = "PATH")]
    pub rates: Vec<PathBuf>,
    #[command(flatten)]
    pub cluster: ClusterArgs,
}

/// Runs the command. Of a hub's models only the configuration is fetched.
///
/// # Errors
/// A recipe, a model's configuration or a file of rates that is wrong; a stage that needs more memory than there is.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let device = common.device;
    let for_cluster = args.cluster.is_asked()?;
    if for_cluster && (ChainText::read(&args.recipe, &common.set)?.is_some() || is_synthesis(&args.recipe)) {
        return Err(EngineError::input(format!(
            "{}: --gpus and --sweep plan a run's recipe, one at a time; a link of a chain is planned as a recipe of its own",
            args.recipe.display()
        )));
    }
    if args.memory.is_none() && !for_cluster {
        // Of this machine's own GPU it is known what a run takes.
        hopper::take_kept(device);
    }
    let asked = PlanTarget {
        device,
        memory: device::memory(args.memory, device),
        host: device::host(args.host_memory, args.memory),
        rates: Rates::load(&args.rates)?,
    };
    if let Some(text) = ChainText::read(&args.recipe, &common.set)? {
        return chain_plan::plan(text, &asked);
    }
    if is_synthesis(&args.recipe) {
        let recipe = load(Some(&args.recipe), &common.set, Purpose::Stage)?;
        let report = |section| synthesize::plan::report(&recipe.name, section);
        return print(&recipe.synthesize.as_ref().map_or_else(|| Ok(String::new()), report)?);
    }
    let recipe = load(Some(&args.recipe), &common.set, Purpose::Check)?;
    if for_cluster {
        let target = ClusterTarget { device, memory: args.memory, rates: asked.rates };
        return cluster_plan::plan(&recipe, &args.cluster, &target);
    }
    let (text, refusal) = run_plan::plan(&recipe, &asked)?;
    print(&text)?;
    refusal.map_or(Ok(()), Err)
}
