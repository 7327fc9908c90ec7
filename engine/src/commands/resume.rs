//! `selfplay resume`: go on where a run stopped, or add iterations to a finished one.

use std::path::PathBuf;

use super::{chain, run_work};
use crate::chain::ChainDir;
use crate::error::Result;
use crate::flags::Common;
use crate::run::dir::RunDir;
use crate::runtime::Runtime;

/// The flags of `selfplay resume`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The run folder
    pub run: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// A folder that is no run's or is in use, another key than `iterations`, inputs that have changed; whatever a
/// stage meets; a stop by a signal.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let chain = ChainDir::new(&args.run);
    if chain.is_chain() {
        return chain::resume(&chain, common);
    }
    let runtime = Runtime::open(common)?;
    run_work::go_on_together(&RunDir::new(&args.run), &common.set, &runtime)
}
