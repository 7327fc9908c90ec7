//! `selfplay sft`: instructions to a policy.

use selfplay_records::{Instruction, read_rows};
use selfplay_trainer::{SftObjective, sft_examples};

use super::models;
use super::stage::{Fingerprint, Stage, check_folder_output, flag};
use super::training::Training;
use crate::cli::{Common, SftArgs};
use crate::error::{EngineError, Result};
use crate::recipe::WeightDType;

/// Runs the command.
///
/// # Errors
/// A model folder, a setting or a row that is wrong; an output that exists; a loss that is not finite.
pub fn run(args: &SftArgs, common: &Common) -> Result<()> {
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
