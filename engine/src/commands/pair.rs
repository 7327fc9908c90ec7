//! `selfplay pair`: candidates and preferences to pairs, or with a loss without pairs to single responses.

use std::path::PathBuf;

use selfplay_records::read_rows;

use super::stage::{Output, StageArgs, StageCommand};
use crate::error::Result;
use crate::flags::Common;
use crate::stages::pair;

/// The flags of `selfplay pair`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Candidates (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub candidates: PathBuf,
    /// Their preferences, in the same order
    #[arg(long, value_name = "FILE")]
    pub preferences: PathBuf,
    /// Pairs; single responses where train.loss takes them
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
    let output = Output::rows(&args.output, args.stage.force)?;
    let command = StageCommand::open("pair", output, &args.stage, common, Vec::new())?;
    let rows = (read_rows(&args.candidates)?, read_rows(&args.preferences)?);
    let selected = pair(&command, [Ok(rows)])?;
    selected.rows.write(&args.output)
}
