//! `selfplay sft`: instructions to a policy.

use std::path::PathBuf;

use selfplay_records::{Instruction, read_rows};
use selfplay_trainer::{SftObjective, sft_examples};

use super::training::{Training, TrainingArgs, TrainingKind};
use crate::error::{EngineError, Result};
use crate::flags::Common;

const KIND: TrainingKind =
    TrainingKind { name: "sft", section: "sft", rows_flag: "--data", model_folder: "policy", heads: false };

/// The flags of `selfplay sft`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Instructions (.jsonl, .json, .parquet)
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// What every training takes.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a row that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let training = Training::open(KIND, &args.training, &args.data, common)?;
    let rows: Vec<Instruction> = read_rows(&args.data)?;
    let source = training.source()?;
    let examples = sft_examples(&rows, &source.codec, &source.stop_ids)
        .map_err(|error| EngineError::in_file(&args.data, error))?;
    let objective = SftObjective::new(examples, &training.command.recipe.sft);
    training.run(&source, objective)
}
