//! `selfplay sft`: instructions to a policy.

use selfplay_records::Instruction;
use selfplay_records::datasets::{DataExample, each_example};
use selfplay_trainer::{SftData, SftObjective, TurnRules, sft_example};

use super::training::{Training, TrainingArgs, TrainingData, TrainingKind};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::inputs::data_sets::{DataSets, LayoutArgs};

const KIND: TrainingKind =
    TrainingKind { name: "sft", section: "sft", rows_flag: "--data", model_folder: "policy", heads: false };

/// The flags of `selfplay sft`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Instructions (.jsonl, .json, .parquet), or hf://datasets/ORG/NAME; absent: the data sets in sft.data of --recipe
    #[arg(long, value_name = "FILE")]
    pub data: Option<String>,
    /// How they are read.
    #[command(flatten)]
    pub layout: LayoutArgs,
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
    let command = &training.command;
    let settings = &command.recipe.sft;
    let flag = KIND.data_flag(args.data.as_deref(), &args.layout);
    let sets: DataSets<Instruction> = DataSets::find(flag, &settings.train.data)?;
    let source = training.source()?;
    let rules =
        TurnRules { end_token: settings.train.end_token, ..TurnRules::new(&source.codec, &source.stop_ids) };
    let mut data = SftData::new(&command.output.folder());
    let mut reports = Vec::new();
    for set in &sets.sets {
        data.begin_set(set.weight);
        for file in &set.files {
            data.begin_file(sets.prefix(file));
            let report = each_example(file, &mut |row, instruction: Instruction| {
                let name = format!("instruction {row}");
                let example = sft_example(name, &instruction, rules, settings.train.loss_tokens)
                    .map_err(|error| EngineError::at_row(&file.path, row, error.into()))?;
                data.push(row, &example).map_err(EngineError::from)
            })?;
            command.tell_data(&report, Instruction::EXAMPLES);
            reports.push(report);
        }
    }
    let objective = SftObjective::new(data, settings);
    let data = TrainingData::of(&sets, reports);
    training.run(&source, data, objective)
}
