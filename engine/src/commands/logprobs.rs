//! `selfplay logprobs`: log-probabilities of responses under a policy.

use std::path::PathBuf;

use selfplay_records::{LogProbRow, read_rows, write_rows};
use selfplay_trainer::log_prob_rows;

use super::stage::{Output, StageArgs, StageCommand, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::policy::PolicySource;

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
    let output = Output::rows(&args.output, args.stage.force)?;
    let flags = flag("policy.model", args.model.as_ref());
    let command = StageCommand::open("logprobs", output, &args.stage, common, flags)?;
    let device = command.device()?;
    let recipe = &command.recipe;
    let mut rows: Vec<LogProbRow> = read_rows(&args.input)?;
    let source = PolicySource::find(recipe, &Hub::default())?;
    let policy = source.load(recipe, &device, false)?;
    let batch_tokens = recipe.train.micro_batch_tokens.or_standard();
    log_prob_rows(&policy, &source.codec, &source.stop_ids, &mut rows, batch_tokens)
        .map_err(|error| EngineError::in_file(&args.input, error))?;
    Ok(write_rows(&args.output, &rows)?)
}
