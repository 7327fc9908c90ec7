//! `selfplay evaluate`: published evaluation suites over a model, or over every policy of a run.
//!
//! ```text
//! places      a folder or a run → the policies that are evaluated, and where their results lie
//! table       the suites by name      suite     the trait that each implements      suites/   a file for each
//! work        what a suite asks of the model and of the judge, step by step; what is answered is kept (store)
//! policy      the model: answers by the sampler, log-likelihoods by the trainer's forward pass
//! judge       a preference model, or a judge's texts
//! outcome     figures and samples     settings   how suites ask     data, suite_files   --data
//! own_files   what of a suite's folder is an evaluation's: nothing else is replaced or removed
//! results     results.json, samples.jsonl; read by `show`, `compare` and whoever reports a model
//! against     the paired bootstrap against another model's results
//! ```
//!
//! What the suites compute from answers is in the crate `selfplay-evaluation`, without a model.
//!
//! ```text
//! evaluation/SUITE/results.json    figures with standard errors, data and settings; its presence means: finished
//! evaluation/SUITE/samples.jsonl   a line for each row: its id, its figures, what was asked and answered
//! evaluation/SUITE/…               the suite's files in its own program's form
//! evaluation/SUITE/parts/          what is answered of a suite that is not finished: the same command goes on from there
//! ```

pub(crate) mod against;
mod data;
mod evaluation_setting;
mod judge;
mod lines;
mod names;
mod outcome;
mod own_files;
pub(crate) mod places;
mod policy;
pub(crate) mod results;
mod settings;
mod store;
mod suite;
mod suite_files;
mod suites;
pub(crate) mod table;
mod work;

use std::path::PathBuf;

use selfplay_model::gpu::HopperKernels;
use selfplay_model::template_clock;
use serde_json::{Map, Value, json};

pub(crate) use self::data::SuiteData;
pub(crate) use self::evaluation_setting::EvaluationSetting;
pub(crate) use self::settings::SuiteSettings;

use self::judge::JudgeSource;
use self::places::EvaluatedPlace;
use self::policy::EvaluatedPolicy;
use self::results::{SuiteResults, write_results};
use self::store::AnswerStore;
use self::suite::Suite;
use self::table::SuiteEntry;
use self::work::SuiteWork;
use crate::error::Result;
use crate::hopper;
use crate::hub::Hub;
use crate::recipe::Recipe;
use crate::run::manifest::flatten;

/// A suite whose data were read.
pub(crate) struct OpenSuite {
    entry: &'static SuiteEntry,
    suite: Box<dyn Suite>,
    /// Hashes of its files, by their names in `--data`.
    data: Map<String, Value>,
}

/// Reads the data of every suite, before any model is loaded.
///
/// # Errors
/// A suite without its file, a file of another layout.
pub(crate) fn open_suites(
    entries: &[&'static SuiteEntry],
    data: &SuiteData,
    settings: &SuiteSettings,
) -> Result<Vec<OpenSuite>> {
    let open = |&entry: &&'static SuiteEntry| {
        let files = data.of(entry)?;
        let suite = (entry.open)(&files, settings)?;
        Ok(OpenSuite { entry, suite, data: files.hashes()? })
    };
    entries.iter().map(open).collect()
}

/// Evaluates one policy by every suite; suites that are finished are read.
///
/// # Errors
/// A model that does not load, an answer that cannot be had or written, results of other settings; a stop by a signal.
pub(crate) fn evaluate(
    place: &EvaluatedPlace,
    recipe: &Recipe,
    suites: &[OpenSuite],
    settings: &SuiteSettings,
    setting: &EvaluationSetting<'_>,
) -> Result<Vec<SuiteResults>> {
    let hub = Hub::default();
    let recipe = place.recipe(recipe);
    let mut policy = EvaluatedPolicy::find(&recipe, &hub, setting.device)?;
    let mut evaluated = Vec::with_capacity(suites.len());
    for open in suites {
        let judge = open.suite.judge().map(|need| JudgeSource::find(&recipe, &hub, open.entry.name, need));
        let judge = judge.transpose()?;
        let depends_on = depends_on(&recipe, &policy, judge.as_ref(), open, settings, setting)?;
        let folder = place.folder.join(open.entry.name);
        if let Some(results) = results::finished(&folder, &depends_on, setting.force)? {
            setting.progress.line(format!("{}: {}: evaluated already", place.title, open.entry.name));
            evaluated.push(results);
            continue;
        }
        let store = AnswerStore::open(&folder, &depends_on, setting.force)?;
        let mut work = SuiteWork {
            title: format!("{}: {}", place.title, open.entry.name),
            model: &place.title,
            suite: open.entry.name,
            policy: &mut policy,
            judge: judge.as_ref(),
            store: &store,
            setting,
            truncated: 0,
        };
        let mut outcome = open.suite.run(&mut work)?;
        if work.truncated > 0 {
            outcome.notes.push(format!("{} prompts cut from the left to fit the context", work.truncated));
        }
        let results = SuiteResults::new(open.entry.name, &place.title, depends_on, &outcome);
        write_results(&folder, &results, &outcome)?;
        store.remove();
        evaluated.push(results);
    }
    Ok(evaluated)
}

/// That no folder of a suite holds what an evaluation would replace or remove and that none has written.
///
/// # Errors
/// The first thing that is another's, by name.
pub(crate) fn check_folders(places: &[EvaluatedPlace], suites: &[OpenSuite]) -> Result<()> {
    let mut folders =
        places.iter().flat_map(|place| suites.iter().map(|open| place.folder.join(open.entry.name)));
    folders.try_for_each(|folder| own_files::check(&folder))
}

/// The time at which templates are rendered: that of an evaluation that goes on, else now.
///
/// # Errors
/// `SELFPLAY_CLOCK` is no time.
pub(crate) fn fix_clock(places: &[EvaluatedPlace], suites: &[OpenSuite], force: bool) -> Result<()> {
    let mut folders =
        places.iter().flat_map(|place| suites.iter().map(|open| place.folder.join(open.entry.name)));
    let earlier = if force { None } else { folders.find_map(|folder| store::earlier_clock(&folder)) };
    Ok(template_clock::fix(&earlier.map_or_else(template_clock::now, Ok)?)?)
}

/// The kernels for Hopper that an evaluation which goes on, or is finished, was begun with; `None` where there is none.
pub(crate) fn earlier_kernels(
    places: &[EvaluatedPlace],
    suites: &[OpenSuite],
    force: bool,
) -> Option<HopperKernels> {
    let mut folders =
        places.iter().flat_map(|place| suites.iter().map(|open| place.folder.join(open.entry.name)));
    let settings = |folder: PathBuf| results::earlier(&folder).or_else(|| store::earlier_settings(&folder));
    let earlier = if force { None } else { folders.find_map(settings) };
    hopper::earlier_of(earlier.as_ref())
}

/// What a suite's results depend on, by name.
fn depends_on(
    recipe: &Recipe,
    policy: &EvaluatedPolicy<'_>,
    judge: Option<&JudgeSource>,
    open: &OpenSuite,
    settings: &SuiteSettings,
    setting: &EvaluationSetting<'_>,
) -> Result<Map<String, Value>> {
    let mut all = Map::new();
    all.insert("selfplay".to_owned(), env!("CARGO_PKG_VERSION").into());
    all.insert("device".to_owned(), setting.device_name.into());
    if !setting.kernels.is_empty() {
        all.insert(hopper::KERNELS_KEY.to_owned(), setting.kernels.to_string().into());
    }
    all.insert("seed".to_owned(), recipe.seed.into());
    all.insert("model".to_owned(), policy.hashes()?.into());
    all.insert("data".to_owned(), open.data.clone().into());
    all.insert("settings".to_owned(), json!(settings));
    let sections = if judge.is_some() { &["policy", "score"][..] } else { &["policy"] };
    for (key, value) in flatten(&recipe.to_table()) {
        // Models are known by their content, wherever they lie.
        let is_place = matches!(key.as_str(), "policy.model" | "policy.adapter" | "score.model");
        if !is_place && key.split('.').next().is_some_and(|section| sections.contains(&section)) {
            all.insert(key, value);
        }
    }
    if let Some(judge) = judge {
        all.insert("judge".to_owned(), judge.hashes()?.into());
    }
    Ok(all)
}
