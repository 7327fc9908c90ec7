//! `selfplay compare`: several runs beside each other.

use std::path::PathBuf;

use crate::chain::dir::refuse_chain;
use crate::error::{EngineError, Result};
use crate::report::compare::{compare, render};
use crate::run::dir::RunDir;

/// The flags of `selfplay compare`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The run folders
    #[arg(required = true, num_args = 1..)]
    pub runs: Vec<PathBuf>,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// A folder that is no run's, or a file in it that does not read.
pub fn run(args: &Args) -> Result<()> {
    for folder in &args.runs {
        refuse_chain(folder, "runs are compared")?;
    }
    let runs: Vec<RunDir> = args.runs.iter().map(RunDir::new).collect();
    let comparison = compare(&runs)?;
    if !args.json {
        return super::print(&render(&comparison));
    }
    let text = serde_json::to_string_pretty(&comparison)
        .map_err(|error| EngineError::failure(format!("the comparison has no JSON form: {error}")))?;
    super::print(&format!("{text}\n"))
}
