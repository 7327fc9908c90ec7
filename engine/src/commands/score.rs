//! `selfplay score`: candidates to preferences.

use std::path::PathBuf;

use selfplay_records::{Candidates, Preference, read_rows, read_values, write_rows};
use selfplay_scorer::{PreferenceModel, prompt_check};

use super::stage::{Output, StageArgs, StageCommand, flag};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hub::Hub;
use crate::inputs::judge_writer::load_preference_model;
use crate::inputs::{find_preference_model, preference_files, preference_place};
use crate::recipe::Stage;
use crate::stages::{Collected, Product, Workspace, score_shard};

/// The flags of `selfplay score`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The preference model: folder or hub id; none with a score.kind that another program computes
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
    let output = Output::rows(&args.output, args.stage.force)?;
    let flags = flag("score.model", args.preference_model.as_ref());
    let command = StageCommand::open("score", output, &args.stage, common, flags)?;
    let device = command.device()?;
    let recipe = &command.recipe;
    let mut rows: Vec<Candidates> = read_rows(&args.candidates)?;
    let kind = &recipe.score.settings.kind;
    if kind.wants_rows() {
        for (row, fields) in rows.iter_mut().zip(read_values(&args.candidates)?) {
            row.prompt.keep_others(fields);
        }
    }
    let files = find_preference_model(recipe, &Hub::default())?;
    let place = preference_place(files.as_ref());
    // Answers are kept beside the output. A service's file is opened with the client: when all else is right.
    let mut settings = recipe.score.settings.clone();
    settings.kind.set_iteration(command.iteration());
    settings.keep_answers(&command.path(Product::Preferences));
    let serves = kind.keeps_transcripts();
    let model = if serves { None } else { Some(load_preference_model(place, &settings, &device)?) };
    // Every prompt is looked at before the first is scored: a wrong one at the end must not cost hours.
    let check = prompt_check(place, kind)?;
    for row in &rows {
        check.check(&row.prompt).map_err(|error| EngineError::in_file(&args.candidates, error))?;
    }

    let score_settings = settings;
    let mut settings = command.settings(&["score"])?;
    settings.set("sample.shard_prompts", recipe.sample.shard_prompts);
    settings.file("--candidates", &args.candidates)?;
    settings.files(
        match &files {
            Some(_) => "--preference-model",
            None if kind.command().is_some() => "the files of score.command",
            None => "the files of [score]",
        },
        preference_files(files.as_ref(), kind)?,
    );
    let parts = command.open_parts(settings)?;
    let preferences = parts.during(&args.candidates, || {
        let model = match model {
            Some(model) => model,
            None => load_preference_model(place, &score_settings, &device)?,
        };
        score(&command, &*model, &rows)
    })?;
    write_rows(&args.output, &preferences)?;
    parts.remove()
}

/// Scores the shards that no earlier command has finished.
fn score(
    command: &StageCommand,
    model: &dyn PreferenceModel,
    rows: &[Candidates],
) -> Result<Vec<Preference>> {
    let shards: Vec<&[Candidates]> = rows.chunks(command.recipe.sample.shard_prompts).collect();
    let mut collected = Collected::read(&command.path(Product::Preferences), shards.len())?;
    let missing = collected.missing();
    let total = missing.iter().map(|&shard| shards[shard].len()).sum();
    let task = command.task(Stage::Preferences, "prompts", total);
    let mut done = 0;
    for shard in missing {
        let mut progress = |compared: usize| task.set((done + compared) as u64, "");
        collected.put(shard, score_shard(command, model, shard, shards[shard], &mut progress)?);
        done += shards[shard].len();
    }
    task.finish(&format!("{total} prompts"));
    Ok(collected.into_rows())
}
