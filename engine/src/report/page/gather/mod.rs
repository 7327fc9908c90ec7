//! From the folders of runs and trainings to what a page tells of them.
//!
//! A run in work has less than a finished one, and a damaged file costs what it held: the page says what is missing. Only a folder
//! that is neither a run's nor a training's is an error.

mod candidates;
mod costs;
mod held_out;
mod shard_rows;

use std::path::{Path, PathBuf};

use selfplay_records::ExampleKind;

use super::super::compare::differing;
use super::super::show;
use super::model::{PageRun, ReportPage};
use crate::error::EngineError;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::run::{events, step_metrics};
use candidates::{IterationShards, TrainedPairs};

/// A folder that is to be reported.
#[derive(Clone, Debug)]
pub(crate) struct ReportedFolder {
    /// What it is called on the page; absent: the recipe's name.
    pub(crate) name: Option<String>,
    /// A run's folder, or that of a training's output.
    pub(crate) folder: PathBuf,
}

/// Texts of a page, over all runs.
const SAMPLES: usize = 120;

/// Reads the folders.
///
/// # Errors
/// One that is neither a run's nor a training's, or whose manifest does not read.
pub(crate) fn gather(folders: &[ReportedFolder]) -> Result<ReportPage, EngineError> {
    let each = (SAMPLES / folders.len().max(1)).clamp(12, 60);
    let mut runs = folders
        .iter()
        .map(|one| if is_run(&one.folder) { run(&one.folder, each) } else { training(&one.folder) })
        .collect::<Result<Vec<_>, _>>()?;
    name_apart(&mut runs, folders);
    // A training keeps no recipe: it differs in nothing that is known.
    let settings: Vec<_> = runs.iter().map(|run| &run.settings).filter(|keys| !keys.is_empty()).collect();
    let keys = if settings.len() == runs.len() { differing(&settings) } else { Default::default() };
    Ok(ReportPage { runs, keys })
}

fn is_run(folder: &Path) -> bool {
    RunDir::new(folder).manifest_file().is_file()
}

fn run(folder: &Path, samples: usize) -> Result<PageRun, EngineError> {
    let dir = RunDir::new(folder);
    let manifest = Manifest::read(&dir.manifest_file())?;
    let mut page = PageRun {
        directory: folder.display().to_string(),
        settings: manifest.recipe.clone(),
        environment: Some(manifest.environment.clone()),
        is_finished: manifest.is_finished(),
        ..PageRun::default()
    };
    let wanted = manifest.iterations();
    match show::read(&dir) {
        Ok(summary) => {
            page.name = summary.name;
            page.state = match (summary.finished, &summary.branched_from) {
                (true, None) => format!("finished, {wanted} of {wanted} iterations"),
                (true, Some(from)) => {
                    format!("finished, {wanted} of {wanted} iterations, branched from {from}")
                }
                (false, _) => format!("{} of {wanted} iterations", summary.iterations.len()),
            };
            page.start = summary.start;
            page.iterations = summary.iterations;
            page.evaluations = summary.evaluations;
        }
        Err(error) => page.missing.push(error.to_string()),
    }
    for iteration in 1..=wanted {
        let steps = step_metrics::steps(&dir.iteration(iteration).train());
        if !steps.is_empty() {
            page.trainings.push(steps);
        }
        let wanted_rows = (samples / wanted.max(1)).max(4);
        let pairs = match dir.iteration(iteration).rows_file(ExampleKind::Pairs) {
            file if file.is_file() => TrainedPairs::read(&file, wanted_rows).unwrap_or_else(|error| {
                page.missing.push(error.to_string());
                TrainedPairs::none()
            }),
            _ => TrainedPairs::none(),
        };
        let shards = IterationShards::of(&dir.iteration(iteration), iteration);
        let found = shards.read(&pairs);
        page.missing.extend(found.problems);
        page.trained.of += found.pairs;
        page.trained.rows.extend(found.samples);
        if found.numbers.prompts > 0 {
            page.candidates.push(found.numbers);
        }
    }
    match held_out::read(&dir, wanted, samples) {
        Ok(table) => page.held_out = table,
        Err(error) => page.missing.push(error.to_string()),
    }
    page.costs = costs::of(&events::read(&dir.events_file()), wanted);
    note_absent(&mut page);
    Ok(page)
}

/// What a run of this form does not have, for people.
fn note_absent(page: &mut PageRun) {
    if page.start.characters.is_none() && page.held_out.of == 0 {
        page.missing.push("no held-out answers: the run evaluates nothing, or has not begun to".to_owned());
    }
    if page.trainings.is_empty() {
        page.missing.push("no training steps yet".to_owned());
    }
    if page.candidates.iter().all(|one| one.scored.is_empty()) {
        page.missing.push("no scored candidates yet".to_owned());
    }
    if page.trained.of == 0 {
        let what = "no pairs: the run has not come so far, or its loss learns from single responses";
        page.missing.push(what.to_owned());
    }
    if page.costs.iter().all(|one| one.peak_bytes.is_empty()) {
        page.missing.push("memory by stage: not recorded by the version that made the run".to_owned());
    }
}

/// The output of `train`, `sft` or `train-preference`, or what it has so far beside it.
fn training(folder: &Path) -> Result<PageRun, EngineError> {
    let mut parts = folder.as_os_str().to_owned();
    parts.push(".parts");
    let in_work = PathBuf::from(parts);
    let is_whole = folder.join("metrics.jsonl").is_file();
    let place = if is_whole { folder } else { &in_work };
    if !place.join("metrics.jsonl").is_file() {
        let folder = folder.display();
        return Err(EngineError::input(format!(
            "{folder}: there is nothing to report: manifest.json of a run and metrics.jsonl of a training are absent; a folder made by run, \
             branch, train, sft or train-preference is wanted"
        )));
    }
    let steps = step_metrics::steps(place);
    let mut page = PageRun {
        name: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        directory: folder.display().to_string(),
        state: format!(
            "{}, {} steps",
            if is_whole { "training, finished" } else { "training, in work" },
            steps.len()
        ),
        is_finished: is_whole,
        accuracies: step_metrics::accuracies(place),
        ..PageRun::default()
    };
    if steps.is_empty() {
        page.missing.push("no training steps yet".to_owned());
    } else {
        page.trainings.push(steps);
    }
    Ok(page)
}

/// Gives every run a name of its own: the one that was asked for, the recipe's, else the folder's.
fn name_apart(runs: &mut [PageRun], folders: &[ReportedFolder]) {
    for (run, folder) in runs.iter_mut().zip(folders) {
        if let Some(name) = &folder.name {
            run.name.clone_from(name);
        }
    }
    let short = |run: &PageRun| {
        Path::new(&run.directory).file_name().unwrap_or_default().to_string_lossy().into_owned()
    };
    let is_taken = |names: &[String]| names.iter().enumerate().any(|(at, name)| names[..at].contains(name));
    let mut names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    if is_taken(&names) || names.iter().any(String::is_empty) {
        names = runs.iter().map(short).collect();
    }
    if is_taken(&names) {
        names = runs.iter().map(|run| run.directory.clone()).collect();
    }
    if is_taken(&names) {
        names = names.iter().enumerate().map(|(at, name)| format!("{name} ({})", at + 1)).collect();
    }
    for (run, name) in runs.iter_mut().zip(names) {
        run.name = name;
    }
}
