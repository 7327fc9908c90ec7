//! `selfplay score`: candidates to preferences.

use std::ops::ControlFlow;
use std::path::PathBuf;

use selfplay_records::{Candidates, Preference, read_rows, write_rows};
use selfplay_scorer::{load, prompt_check};

use super::parts::Parts;
use super::stage::{Fingerprint, Stage, StageArgs, check_row_output, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub;
use crate::stages::compare;

/// The flags of `selfplay score`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The preference model: folder or hub id
    #[arg(long, value_name = "DIR")]
    pub preference_model: Option<String>,
    /// Candidates (.jsonl, .parquet)
    #[arg(long, value_name = "FILE")]
    pub candidates: PathBuf,
    /// Preferences
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// What every stage command takes.
    #[command(flatten)]
    pub stage: StageArgs,
}

/// Runs the command.
///
/// # Errors
/// A preference model or a row that is wrong; an output that exists, or one begun with other settings.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    check_row_output(&args.output, args.stage.force)?;
    let device = common.device.open()?;
    let stage = Stage::new(&args.stage, common, flag("score.model", args.preference_model.as_ref()))?;
    stage.hold_clock(&args.output)?;
    let recipe = &stage.recipe;
    let rows: Vec<Candidates> = read_rows(&args.candidates)?;
    let folder = hub::model_folder(&recipe.score.model)?;
    let model = load(&folder, &recipe.score.settings, &device, None)?;
    // Every prompt is looked at before the first is scored: a wrong one at the end must not cost hours.
    let check = prompt_check(&folder, &recipe.score.settings.kind)?;
    for row in &rows {
        check.check(&row.prompt).map_err(|error| EngineError::in_file(&args.candidates, error))?;
    }

    let mut fingerprint = Fingerprint::new(&stage, "score", common);
    fingerprint.section(recipe, "score")?;
    fingerprint.set("sample.shard_prompts", recipe.sample.shard_prompts);
    fingerprint.file("--candidates", &args.candidates)?;
    fingerprint.model("--preference-model", &folder)?;
    let parts = Parts::open(&args.output, &fingerprint.into_map(), stage.force)?;

    let task = stage.progress.task("score", "prompts", rows.len() as u64);
    let mut preferences: Vec<Preference> = Vec::with_capacity(rows.len());
    for (number, shard) in rows.chunks(recipe.sample.shard_prompts).enumerate() {
        stage.check_stop(parts.folder())?;
        let compared = match parts.shard(number)? {
            Some(done) => done,
            None => {
                let before = preferences.len();
                let mut progress = |done: usize| task.set((before + done) as u64, "");
                let compared = compare(&*model, shard, &stage.stop, &mut progress)
                    .map_err(|error| EngineError::in_file(&args.candidates, error));
                match parts.remove_if_nothing_finished(compared)? {
                    ControlFlow::Break(signal) => return Err(stage.stopped(signal, parts.folder())),
                    ControlFlow::Continue(compared) => {
                        parts.keep(number, &compared)?;
                        compared
                    }
                }
            }
        };
        preferences.extend(compared);
        task.set(preferences.len() as u64, "");
    }
    task.finish(&format!("{} prompts", preferences.len()));
    write_rows(&args.output, &preferences)?;
    parts.remove()
}
