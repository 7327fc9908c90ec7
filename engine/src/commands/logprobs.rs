//! `selfplay logprobs`: log-probabilities of responses under a policy.

use std::path::PathBuf;

use selfplay_records::{LogProbRow, read_rows, write_rows};
use selfplay_trainer::log_prob_rows;

use super::models;
use super::stage::{Stage, StageArgs, check_row_output, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;

/// The flags of `selfplay logprobs`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The policy: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Prompts with responses (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// The same rows with log-probabilities
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder or a row that is wrong; an output that exists.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_row_output(&args.output, args.stage.force)?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("policy.model", args.model.as_ref()))?;
    let mut rows: Vec<LogProbRow> = read_rows(&args.input)?;
    let policy = models::policy(&stage.recipe, &device)?;
    let stop_ids = policy.codec.stop_ids(&policy.folder)?;
    let batch_tokens = stage.recipe.train.micro_batch_tokens;
    log_prob_rows(&policy.decoder, &policy.codec, &stop_ids, &mut rows, batch_tokens)
        .map_err(|error| EngineError::in_file(&args.input, error))?;
    Ok(write_rows(&args.output, &rows)?)
}
