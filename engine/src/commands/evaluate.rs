//! `selfplay evaluate`: published suites over a model, or over every policy of a run.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::stage::flag;
use crate::chain::dir::refuse_chain;
use crate::console::progress::Progress;
use crate::error::{EngineError, Result};
use crate::evaluate::against::{SuiteDifference, compare};
use crate::evaluate::places::{self, EvaluatedPlace};
use crate::evaluate::results::SuiteResults;
use crate::evaluate::{
    EvaluationSetting, SuiteData, SuiteSettings, check_folders, earlier_kernels, evaluate, fix_clock,
    open_suites, table,
};
use crate::flags::Common;
use crate::hopper;
use crate::recipe::{Purpose, load};
use crate::report::suites::{differences_table, results_table};
use crate::runtime::Runtime;
use crate::signals::StopFlag;

/// The flags of `selfplay evaluate`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A model, or a run: each of its policies
    #[arg(long, value_name = "DIR|RUN")]
    pub model: String,
    /// Suites, such as ifeval, gsm8k, mmlu
    #[arg(long, value_name = "NAME", required = true, num_args = 1..)]
    pub suite: Vec<String>,
    /// A suite's file; more by NAME.KEY=PATH
    #[arg(long, value_name = "NAME=PATH", num_args = 1..)]
    pub data: Vec<String>,
    /// Where results go, if not beside the model
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Another model, or results, to compare with
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// The judge; others by --set score.…
    #[arg(long, value_name = "DIR")]
    pub preference_model: Option<String>,
    /// Read its [policy], [score] and seed
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Examples before each question
    #[arg(long, value_name = "N")]
    pub num_fewshot: Option<usize>,
    /// The first N rows of each suite
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub limit: Option<usize>,
    /// Tokens of an answer at most
    #[arg(long, value_name = "N", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..1 << 30))]
    pub max_new_tokens: Option<usize>,
    /// Divides the logits; 0 is greedy
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f64>,
    /// Ask gsm8k through the chat template
    #[arg(long)]
    pub apply_chat_template: bool,
    /// Replace results of other settings
    #[arg(long)]
    pub force: bool,
    /// One JSON object for programs
    #[arg(long)]
    pub json: bool,
}

/// What was found, for programs.
#[derive(Serialize)]
struct Evaluated {
    results: Vec<SuiteResults>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    against: Vec<SuiteDifference>,
}

/// Runs the command.
///
/// # Errors
/// A suite that is unknown, data, a judge or a model that is missing or wrong; results of other settings; a stop by a signal.
pub fn run(args: &Args, common: &Common) -> Result<()> {
    if args.temperature.is_some_and(|temperature| !(temperature >= 0.0 && temperature.is_finite())) {
        return Err(EngineError::input("--temperature: a number of 0 or more is wanted"));
    }
    refuse_chain(
        Path::new(&args.model),
        "a run or a model is evaluated: name a link's folder, or the policy in it",
    )?;
    let entries = table::find(&args.suite)?;
    let settings = SuiteSettings {
        num_fewshot: args.num_fewshot,
        limit: args.limit,
        max_new_tokens: args.max_new_tokens,
        temperature: args.temperature,
        apply_chat_template: args.apply_chat_template,
    };
    let suites = open_suites(&entries, &SuiteData::parse(&args.data)?, &settings)?;
    if let Some(other) = &args.against {
        entries.iter().try_for_each(|entry| places::results_of(other, entry.name).map(drop))?;
    }
    let run = places::run_of(&args.model);
    let mut overrides = common.set.clone();
    overrides.extend(flag("score.model", args.preference_model.as_ref()));
    let (recipe, places) = match &run {
        Some(run) => {
            let file = args.recipe.clone().unwrap_or_else(|| run.recipe_file());
            (load(Some(&file), &overrides, Purpose::Stage)?, places::of_run(run, args.output.as_deref())?)
        }
        None => {
            overrides.extend(flag("policy.model", Some(&args.model)));
            let recipe = load(args.recipe.as_deref(), &overrides, Purpose::Stage)?;
            let place = places::of_model(&recipe, args.output.as_deref())?;
            (recipe, vec![place])
        }
    };
    check_folders(&places, &suites)?;
    let runtime = Runtime::open(common)?;
    let stop = StopFlag::of_process()
        .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
    let progress = Progress::new(common.verbosity());
    fix_clock(&places, &suites, args.force)?;
    let kernels = hopper::take(&runtime.device, earlier_kernels(&places, &suites, args.force))?;
    let setting = EvaluationSetting {
        device: &runtime.device,
        device_name: &runtime.device_name,
        kernels,
        progress: &progress,
        stop: &stop,
        force: args.force,
    };
    let mut found = Evaluated { results: Vec::new(), against: Vec::new() };
    for place in &places {
        let results = evaluate(place, &recipe, &suites, &settings, &setting)?;
        found.against.extend(differences(&results, place, args)?);
        found.results.extend(results);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&found)
            .map_err(|error| EngineError::failure(format!("the results have no JSON form: {error}")))?;
        return super::print(&format!("{text}\n"));
    }
    let mut text = results_table(&found.results);
    if !found.against.is_empty() {
        text.push('\n');
        text.push_str(&differences_table(&found.against));
    }
    super::print(&text)
}

fn differences(
    results: &[SuiteResults],
    place: &EvaluatedPlace,
    args: &Args,
) -> Result<Vec<SuiteDifference>> {
    let Some(other) = &args.against else { return Ok(Vec::new()) };
    results.iter().map(|results| compare(results, &place.folder, other)).collect()
}
