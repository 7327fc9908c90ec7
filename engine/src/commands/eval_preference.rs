//! `selfplay eval-preference`: how well a preference model agrees with labelled comparisons.

use std::path::PathBuf;

use selfplay_evaluation::preference::{JudgedPair, PreferenceReport, report};
use selfplay_records::{Message, Prompt, read_values};
use selfplay_scorer::{Contest, ContestOutcome, PreferenceModel};

use super::stage::flag;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::hopper;
use crate::hub::Hub;
use crate::inputs::compared_rows::{self, ComparedRow};
use crate::inputs::judge_writer::load_preference_model;
use crate::inputs::{find_preference_model, preference_place};
use crate::recipe::{Purpose, load};
use crate::report::preference::table;
use crate::signals::StopFlag;

/// Comparisons between two looks for a signal.
const AT_A_TIME: usize = 128;

/// The flags of `selfplay eval-preference`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The preference model: folder or hub id; none with a score.kind that another program computes
    #[arg(long, value_name = "DIR")]
    pub preference_model: Option<String>,
    /// Comparisons: pairs in any known layout, perhaps with subset, tie and annotator1 …, or PandaLM's (.jsonl, .json, .parquet)
    #[arg(long, value_name = "FILE")]
    pub pairs: PathBuf,
    /// The recipe whose `[score]` is read.
    #[arg(long, value_name = "FILE", help = "Read this recipe's [score]")]
    pub recipe: Option<PathBuf>,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// A preference model or a row that is wrong; a signal.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    let mut overrides = common.set.clone();
    overrides.extend(flag("score.model", args.preference_model.as_ref()));
    let recipe = load(args.recipe.as_deref(), &overrides, Purpose::Stage)?;
    let stop = StopFlag::of_process()
        .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
    let progress = Progress::new(common.verbosity());
    let read = compared_rows::read(&args.pairs)?;
    if let Some(told) = &read.told {
        progress.line(told);
    }
    let kind = &recipe.score.settings.kind;
    let mut contests: Vec<Contest> = read.rows.iter().map(contest).collect();
    if kind.wants_rows() {
        let fields = read_values(&args.pairs)?;
        for (contest, row) in contests.iter_mut().zip(&read.rows) {
            contest.prompt.keep_others(fields.get(row.row).cloned().unwrap_or_default());
        }
    }
    let files = find_preference_model(&recipe, &Hub::default())?;
    let device = common.device.open()?;
    hopper::take(&device, None)?;
    let place = preference_place(files.as_ref());
    let model = load_preference_model(place, &recipe.score.settings, &device)?;
    let outcomes = outcomes(&*model, &contests, &stop, &progress)
        .map_err(|error| EngineError::in_file(&args.pairs, error))?;
    let judged: Vec<JudgedPair> =
        read.rows.into_iter().zip(&outcomes).map(|(row, outcome)| judged(row, outcome)).collect();
    let found = report(&judged);
    if args.json {
        return super::print(&format!("{}\n", json(&found)?));
    }
    super::print(&table(&found))
}

fn json(found: &PreferenceReport) -> Result<String> {
    serde_json::to_string_pretty(found)
        .map_err(|error| EngineError::failure(format!("the report has no JSON form: {error}")))
}

fn contest(row: &ComparedRow) -> Contest {
    Contest {
        prompt: Prompt {
            prompt_id: row.prompt_id.clone().unwrap_or_else(|| row.row.to_string()),
            messages: Some(row.prompt.clone()),
            ..Prompt::default()
        },
        first: row.first.clone(),
        second: row.second.clone(),
    }
}

fn outcomes(
    model: &dyn PreferenceModel,
    contests: &[Contest],
    stop: &StopFlag,
    progress: &Progress,
) -> Result<Vec<ContestOutcome>> {
    let task = progress.task("eval-preference".to_owned(), "comparisons", contests.len() as u64);
    let mut outcomes = Vec::with_capacity(contests.len());
    for some in contests.chunks(AT_A_TIME) {
        if let Some(signal) = stop.requested() {
            return Err(EngineError::Stopped { signal, kept: "nothing is kept of a measurement".to_owned() });
        }
        outcomes.extend(model.outcomes(some)?);
        task.set(outcomes.len() as u64, "");
    }
    task.finish(&format!("{} comparisons", outcomes.len()));
    Ok(outcomes)
}

fn judged(row: ComparedRow, outcome: &ContestOutcome) -> JudgedPair {
    let turn = |message: &Message| format!("{}: {}\n", message.role, message.content);
    JudgedPair {
        prompt: row.prompt.iter().map(turn).collect(),
        first: row.first,
        second: row.second,
        label: row.labels.winner,
        annotators: row.labels.annotators,
        subset: row.labels.subset,
        score: outcome.score,
        shown: outcome.shown,
    }
}
