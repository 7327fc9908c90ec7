//! `selfplay show`: a run's table, its JSON, or answers before and after.

use std::path::PathBuf;

use serde::Serialize;

use crate::chain::ChainDir;
use crate::chain::dir::refuse_chain;
use crate::chain::summary;
use crate::error::{EngineError, Result};
use crate::report::{self, samples};
use crate::run::dir::RunDir;

/// The flags of `selfplay show`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The run folder
    pub run: PathBuf,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
    /// Answers to so many held-out prompts, before and after
    #[arg(long, value_name = "N")]
    pub samples: Option<usize>,
}

/// Runs the command. It takes no lock: a run in progress shows its finished iterations.
///
/// # Errors
/// A folder that is no run's, or a file in it that does not read.
pub fn run(args: &Args) -> Result<()> {
    let chain = ChainDir::new(&args.run);
    if chain.is_chain() {
        if args.samples.is_some() {
            refuse_chain(&args.run, "only a run has answers before and after")?;
        }
        return show_chain(&chain, args.json);
    }
    let run = RunDir::new(&args.run);
    let summary = report::read(&run)?;
    if args.json {
        return print_json(&summary);
    }
    match args.samples {
        Some(count) => super::print(&samples::side_by_side(&run, summary.wanted, count)?),
        None => super::print(&report::render(&summary)),
    }
}

fn show_chain(dir: &ChainDir, json: bool) -> Result<()> {
    let summary = summary::read(dir)?;
    if json { print_json(&summary) } else { super::print(&summary::render(&summary)) }
}

fn print_json(summary: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(summary)
        .map_err(|error| EngineError::failure(format!("the run has no JSON form: {error}")))?;
    super::print(&format!("{text}\n"))
}
