//! `selfplay pair`: candidates and preferences to pairs.

use selfplay_records::{Candidates, Preference, read_rows, write_rows};

use super::stage::{Stage, check_row_output};
use crate::cli::{Common, PairArgs};
use crate::error::Result;

/// Runs the command.
///
/// # Errors
/// Rows that do not belong together; an output that exists.
pub fn run(args: &PairArgs, common: &Common) -> Result<()> {
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
