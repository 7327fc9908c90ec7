//! `selfplay logprobs`: log-probabilities of responses under a policy.

use selfplay_records::{LogProbRow, read_rows, write_rows};
use selfplay_trainer::log_prob_rows;

use super::models;
use super::stage::{Stage, check_row_output, flag};
use crate::cli::{Common, LogprobsArgs};
use crate::error::{EngineError, Result};

/// Runs the command.
///
/// # Errors
/// A model folder or a row that is wrong; an output that exists.
pub fn run(args: &LogprobsArgs, common: &Common) -> Result<()> {
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
