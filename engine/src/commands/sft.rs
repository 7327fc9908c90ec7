//! `selfplay sft`: instructions to a policy.

use std::path::PathBuf;

use selfplay_records::{Instruction, read_rows};
use selfplay_trainer::{SftObjective, sft_examples};

use super::models;
use super::stage::{Fingerprint, Stage, StageArgs, check_folder_output, flag};
use super::training::Training;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::recipe::WeightDType;

/// The flags of `selfplay sft`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The model to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Instructions (.jsonl, .json, .parquet)
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,
    /// Folder for metrics.jsonl and policy/
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a row that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_folder_output(&args.output, args.stage.force, "policy")?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("policy.model", args.model.as_ref()))?;
    stage.hold_clock(&args.output)?;
    let recipe = &stage.recipe;
    let rows: Vec<Instruction> = read_rows(&args.data)?;
    let mut policy = models::policy(recipe, &device)?;
    let stop_ids = policy.codec.stop_ids(&policy.folder)?;
    let examples = sft_examples(&rows, &policy.codec, &stop_ids)
        .map_err(|error| EngineError::in_file(&args.data, error))?;

    let mut fingerprint = Fingerprint::new(&stage, "sft", common);
    fingerprint.section(recipe, "sft")?;
    fingerprint.section(recipe, "policy")?;
    fingerprint.file("--data", &args.data)?;
    fingerprint.model("--model", &policy.folder)?;
    let training = Training {
        stage: &stage,
        name: "sft",
        output: &args.output,
        rows: &args.data,
        model_folder: "policy",
        dtype: recipe.policy.dtype.map(WeightDType::to_candle),
        template: policy.codec.template.as_ref().filter(|_| recipe.policy.chat_template.is_some()),
    };
    training.run(&mut policy.decoder, fingerprint, SftObjective::new(examples, &recipe.sft))
}
