//! `selfplay pair`: candidates and preferences to pairs.

use std::path::PathBuf;

use selfplay_records::{Candidates, Preference, read_rows, write_rows};

use super::stage::{Stage, StageArgs, check_row_output};
use crate::error::Result;
use crate::flags::Common;

/// The flags of `selfplay pair`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Candidates (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub candidates: PathBuf,
    /// Their preferences, in the same order
    #[arg(long, value_name = "FILE")]
    pub preferences: PathBuf,
    /// Pairs
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// Rows that do not belong together; an output that exists.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_row_output(&args.output, args.stage.force)?;
    let stage = Stage::new(&args.stage, common, Vec::new())?;
    let candidates: Vec<Candidates> = read_rows(&args.candidates)?;
    let preferences: Vec<Preference> = read_rows(&args.preferences)?;
    let recipe = &stage.recipe;
    let selected =
        selfplay_pairer::select(&candidates, &preferences, &recipe.pair, recipe.seed, stage.iteration)?;
    let dropped = selected.dropped;
    stage.progress.line(format!(
        "{} pairs of {} prompts; without a pair: {} with one response, {} by length, {} ties, {} by margin",
        selected.pairs.len(),
        candidates.len(),
        dropped.single,
        dropped.length,
        dropped.tie,
        dropped.margin
    ));
    Ok(write_rows(&args.output, &selected.pairs)?)
}
