//! `selfplay train`: pairs to a policy.

use std::path::PathBuf;

use candle_core::Device;
use selfplay_records::read_pairs;
use selfplay_trainer::{PairObjective, token_pairs};

use super::anchors::AnchorArgs;
use super::stage::StageCommand;
use super::training::{Before, Training, TrainingArgs, TrainingKind};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::stages::Workspace;

const KIND: TrainingKind = TrainingKind {
    name: "train",
    section: "train",
    rows_flag: "--pairs",
    model_folder: "policy",
    heads: false,
};

/// The flags of `selfplay train`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Pairs (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// Policies besides --model.
    #[command(flatten)]
    pub anchors: AnchorArgs,
    /// What every training takes.
    #[command(flatten)]
    pub training: TrainingArgs,
}

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a pair that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let training = Training::open(KIND, &args.training, &args.pairs, common)?;
    let settings = &training.command.recipe.train;
    let read = read_pairs(&args.pairs)?;
    training.command.tell_skipped(&args.pairs, &read.skipped);
    let source = training.source()?;
    // With an adapter over it the policy is not what its base's folder holds.
    let init = settings.lora.as_ref().and_then(|lora| lora.init().folder());
    let own = source.adapter.as_deref().or(init).unwrap_or(&source.folder);
    let named = args.anchors.find(settings, training.command.iteration(), own)?;
    let pairs = token_pairs(&read.pairs, &source.codec, &source.stop_ids, settings.loss)
        .map_err(|error| EngineError::in_file(&args.pairs, error))?;
    args.anchors.check_pairs(settings, &pairs).map_err(|error| EngineError::in_file(&args.pairs, error))?;
    let objective = PairObjective::new(pairs, settings).with_anchors(named.anchors.clone());
    let take = |command: &StageCommand, device: &Device, objective: &mut PairObjective| {
        named.take(command, device, objective)
    };
    let before = objective.has_other_anchors().then(|| Before { models: named.folders(), work: &take });
    training.run_after(&source, objective, before)
}
