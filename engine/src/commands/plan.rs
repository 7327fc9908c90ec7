//! `selfplay plan`: what a recipe will need, before anything is computed. What cannot fit is refused, after the report.

use std::path::PathBuf;

use super::chain_plan;
use super::check::is_synthesis;
use super::run_plan::{self, PlanTarget};
use crate::chain::ChainText;
use crate::commands::print;
use crate::error::Result;
use crate::flags::Common;
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
    #[arg(
        long,
        value_name = "SIZE",
        help = "Refuse what needs more memory, as in 141GB or 24GiB [default: what the device has]"
    )]
    pub memory: Option<ByteSize>,
    /// Take times from here too: what `selfplay bench --json` wrote, or a folder of benches/gpu.sh
    #[arg(long, value_name = "PATH")]
    pub rates: Vec<PathBuf>,
}

/// Runs the command. Of a hub's models only the configuration is fetched.
///
/// # Errors
/// A recipe, a model's configuration or a file of rates that is wrong; a stage that needs more memory than there is.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let device = common.device;
    let asked =
        PlanTarget { device, memory: device::memory(args.memory, device), rates: Rates::load(&args.rates)? };
    if let Some(text) = ChainText::read(&args.recipe, &common.set)? {
        return chain_plan::plan(text, &asked);
    }
    if is_synthesis(&args.recipe) {
        let recipe = load(Some(&args.recipe), &common.set, Purpose::Stage)?;
        let report = |section| synthesize::plan::report(&recipe.name, section);
        return print(&recipe.synthesize.as_ref().map_or_else(|| Ok(String::new()), report)?);
    }
    let recipe = load(Some(&args.recipe), &common.set, Purpose::Check)?;
    let (text, refusal) = run_plan::plan(&recipe, &asked)?;
    print(&text)?;
    refusal.map_or(Ok(()), Err)
}
