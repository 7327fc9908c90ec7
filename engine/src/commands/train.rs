//! `selfplay train`: pairs to a policy.

use candle_core::Device;
use selfplay_records::Pair;
use selfplay_trainer::{PairObjective, TurnRules, token_pair};

use super::anchors::AnchorArgs;
use super::stage::StageCommand;
use super::training::{Before, Training, TrainingArgs, TrainingKind, read_sets};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::data_sets::{DataFlag, DataSets, LayoutArgs};
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
    /// Pairs (.jsonl, .json, .parquet), or hf://datasets/ORG/NAME; absent: the data sets in train.data of --recipe
    #[arg(long, value_name = "FILE")]
    pub pairs: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub layout: LayoutArgs,
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
    let training = Training::open(KIND, &args.training, common)?;
    let settings = &training.command.recipe.train;
    let flag = DataFlag {
        flag: KIND.rows_flag,
        section: KIND.section,
        file: args.pairs.as_deref(),
        layout: &args.layout,
    };
    let sets: DataSets<Pair> = DataSets::find(flag, &settings.data)?;
    let source = training.source()?;
    // With an adapter over it the policy is not what its base's folder holds.
    let init = settings.lora.as_ref().and_then(|lora| lora.init().folder());
    let own = source.adapter.as_deref().or(init).unwrap_or(&source.folder);
    let named = args.anchors.find(settings, training.command.iteration(), own)?;
    let rules =
        TurnRules { end_token: settings.end_token, ..TurnRules::new(&source.codec, &source.stop_ids) };
    let (pairs, data) = read_sets(&training.command, &sets, &mut |place, pair: Pair| {
        let mut pair = token_pair(place.row, &pair, rules, settings.loss)
            .map_err(|error| EngineError::at_row(place.file, place.row, error.into()))?;
        pair.name = place.name(&pair.name);
        Ok(pair)
    })?;
    args.anchors.check_pairs(settings, &pairs).map_err(|error| EngineError::in_file(&sets.place(), error))?;
    let objective = PairObjective::new(pairs, settings).with_anchors(named.anchors.clone());
    let take = |command: &StageCommand, device: &Device, objective: &mut PairObjective| {
        named.take(command, device, objective)
    };
    let before = objective.has_other_anchors().then(|| Before { models: named.folders(), work: &take });
    training.run_after(&source, data, objective, before)
}
