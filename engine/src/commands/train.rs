//! `selfplay train`: pairs, or single responses, to a policy.

use candle_core::Device;
use selfplay_records::{Completion, ExampleKind, Pair, stream_rows};
use selfplay_trainer::{
    GroupBuilder, GroupObjective, PairData, PairObjective, ReadsPolicies, SftData, SftObjective, TrainError,
    TrainSettings, TurnRules, UnpairedBuilder, best_example, token_pair,
};

use super::anchors::{AnchorArgs, NamedPolicies};
use super::stage::StageCommand;
use super::training::{Before, ReadSets, Training, TrainingArgs, TrainingData, TrainingKind, read_sets};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::data_sets::{DataFlag, DataSets, LayoutArgs};
use crate::inputs::policy::PolicySource;
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
    /// A file, or hf://datasets/ORG/NAME; absent: train.data
    ///
    /// .jsonl, .json or .parquet; completions for a loss without pairs.
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
/// A model folder, a setting or a row that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let training = Training::open(KIND, &args.training, common)?;
    let settings = &training.command.recipe.train;
    let flag = KIND.data_flag(args.pairs.as_deref(), &args.layout);
    if settings.loss.examples() != ExampleKind::Pairs {
        return without_pairs(args, training, flag);
    }
    let sets: DataSets<Pair> = DataSets::find(flag, &settings.data)?;
    let source = training.source()?;
    let named = policies(args, &training, &source)?;
    let rules = rules(settings, &source);
    let mut pairs = PairData::new(&training.command.output.folder());
    let ReadSets { data, mixed } = read_sets(&training.command, &sets, &mut |place, pair: Pair| {
        let mut pair = token_pair(place.row, &pair, rules, settings.loss)
            .map_err(|error| EngineError::at_row(place.file, place.row, error.into()))?;
        pair.name = place.name(&pair.name);
        Ok(pairs.push(pair)?)
    })?;
    let pairs = match mixed {
        Some(places) => pairs.pick(&places),
        None => pairs,
    };
    args.anchors.check_pairs(settings, &pairs).map_err(|error| EngineError::in_file(&sets.place(), error))?;
    let objective = PairObjective::new(pairs, settings).with_anchors(named.anchors.clone());
    train_on(training, &source, data, objective, &named)
}

/// Training on single responses: the rows of `selfplay pair` with the same loss, or unpaired data of others.
fn without_pairs(args: &Args, training: Training, flag: DataFlag<'_>) -> Result<()> {
    let settings = &training.command.recipe.train;
    let loss = settings.loss;
    let file = flag.own_file(&format!("loss = \"{loss}\" reads completions, one file of them"))?;
    args.anchors.check_reference(settings)?;
    let source = training.source()?;
    let named = policies(args, &training, &source)?;
    let rules = rules(settings, &source);
    let folder = training.command.output.folder();
    let wrong = |error: TrainError| EngineError::in_file(&file, error);
    let each = |take: &mut dyn FnMut(usize, &Completion) -> std::result::Result<(), TrainError>| {
        stream_rows(&file, &mut |row, completion: Completion| take(row, &completion).map_err(wrong))
    };
    let data = TrainingData::of_file(file.clone());
    match loss.examples() {
        ExampleKind::Groups => {
            let mut groups = GroupBuilder::new(rules, loss, None, &folder);
            each(&mut |row, completion| groups.push(row, completion))?;
            let groups = groups.finish().map_err(wrong)?;
            let objective =
                GroupObjective::new(groups, settings).with_reference(named.anchors.reference.clone());
            train_on(training, &source, data, objective, &named)
        }
        ExampleKind::Best => {
            let mut examples = SftData::new(&folder);
            each(&mut |row, completion| {
                examples.push(row, &best_example(row, completion, rules, settings.loss_tokens)?)
            })?;
            let objective = SftObjective::new(examples, settings);
            train_on(training, &source, data, objective, &named)
        }
        ExampleKind::Unpaired | ExampleKind::Pairs => {
            let mut examples = UnpairedBuilder::new(rules, loss, &folder);
            each(&mut |row, completion| examples.push(row, completion))?;
            let examples = examples.finish().map_err(wrong)?;
            let objective = PairObjective::new(examples, settings).with_anchors(named.anchors.clone());
            train_on(training, &source, data, objective, &named)
        }
    }
}

/// What makes tokens of rows.
fn rules<'a>(settings: &TrainSettings, source: &'a PolicySource) -> TurnRules<'a> {
    TurnRules { end_token: settings.end_token, ..TurnRules::new(&source.codec, &source.stop_ids) }
}

/// The policies that the flags name.
fn policies(args: &Args, training: &Training, source: &PolicySource) -> Result<NamedPolicies> {
    let settings = &training.command.recipe.train;
    // With an adapter over it the policy is not what its base's folder holds.
    let init = settings.lora.as_ref().and_then(|lora| lora.init().folder());
    let own = source.adapter.as_deref().or(init).unwrap_or(&source.folder);
    args.anchors.find(settings, training.command.iteration(), own)
}

/// Trains on an objective, whichever it is.
fn train_on<O: ReadsPolicies>(
    training: Training,
    source: &PolicySource,
    data: TrainingData,
    objective: O,
    named: &NamedPolicies,
) -> Result<()> {
    let take =
        |command: &StageCommand, device: &Device, objective: &mut O| named.take(command, device, objective);
    let before = objective.has_other_anchors().then(|| Before { models: named.folders(), work: &take });
    training.run_after(source, data, objective, before)
}
