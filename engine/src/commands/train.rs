//! `selfplay train`: pairs to a policy.

use std::path::PathBuf;

use selfplay_records::read_pairs;
use selfplay_trainer::{PairObjective, token_pairs};

use super::models;
use super::stage::{Fingerprint, Stage, StageArgs, check_folder_output, flag};
use super::training::Training;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::recipe::WeightDType;

/// The flags of `selfplay train`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The policy to start from: folder, hub id, or random:FOLDER
    #[arg(long, value_name = "DIR")]
    pub model: Option<String>,
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
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
/// A model folder, a setting or a pair that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_folder_output(&args.output, args.stage.force, "policy")?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("policy.model", args.model.as_ref()))?;
    stage.hold_clock(&args.output)?;
    let recipe = &stage.recipe;
    let read = read_pairs(&args.pairs)?;
    stage.tell_skipped(&args.pairs, &read.skipped);
    let mut policy = models::policy(recipe, &device)?;
    let stop_ids = policy.codec.stop_ids(&policy.folder)?;
    let pairs = token_pairs(&read.pairs, &policy.codec, &stop_ids, recipe.train.loss)
        .map_err(|error| EngineError::in_file(&args.pairs, error))?;

    let mut fingerprint = Fingerprint::new(&stage, "train", common);
    fingerprint.section(recipe, "train")?;
    fingerprint.section(recipe, "policy")?;
    fingerprint.file("--pairs", &args.pairs)?;
    fingerprint.model("--model", &policy.folder)?;
    let training = Training {
        stage: &stage,
        name: "train",
        output: &args.output,
        rows: &args.pairs,
        model_folder: "policy",
        dtype: recipe.policy.dtype.map(WeightDType::to_candle),
        template: policy.codec.template.as_ref().filter(|_| recipe.policy.chat_template.is_some()),
    };
    training.run(&mut policy.decoder, fingerprint, PairObjective::new(pairs, &recipe.train))
}
