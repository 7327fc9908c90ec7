//! `results.json` and `samples.jsonl` of a suite: written whole, read by whoever reports a model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use selfplay_evaluation::suites::average::Average;
use selfplay_records::atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::lines::json_lines;
use super::names::{FOLDER, RESULTS, SAMPLES};
use super::outcome::{NamedAverage, SuiteOutcome};
use crate::differing::differing;
use crate::error::{EngineError, Result};
use crate::json_file::{read_json, write_json};
use crate::run::dir::make_folder;

/// `results.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SuiteResults {
    /// The suite.
    pub(crate) suite: String,
    /// The model's name, or `iteration N`, when it was evaluated.
    pub(crate) model: String,
    /// Rows.
    pub(crate) rows: usize,
    /// The figures, by name. Accuracies are shares of 1, win rates of `alpaca_eval` percentages, ratings of `mt_bench` from 1 to 10.
    pub(crate) metrics: BTreeMap<String, Average>,
    /// The same by category, where a suite has categories.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) categories: BTreeMap<String, BTreeMap<String, Average>>,
    /// Figures that are no averages of rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) details: Option<Value>,
    /// What else a reader should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) notes: Vec<String>,
    /// Data, model and settings that the figures depend on.
    pub(crate) depends_on: Map<String, Value>,
}

impl SuiteResults {
    pub(super) fn new(
        suite: &str,
        title: &str,
        depends_on: Map<String, Value>,
        outcome: &SuiteOutcome,
    ) -> Self {
        let by_name = |named: &[NamedAverage]| named.iter().cloned().collect::<BTreeMap<_, _>>();
        Self {
            suite: suite.to_owned(),
            model: title.to_owned(),
            rows: outcome.samples.len(),
            metrics: by_name(&outcome.metrics),
            categories: outcome
                .categories
                .iter()
                .map(|(name, named)| (name.clone(), by_name(named)))
                .collect(),
            details: outcome.details.clone(),
            notes: outcome.notes.clone(),
            depends_on,
        }
    }
}

/// Writes a suite's files, `results.json` last.
///
/// # Errors
/// When one cannot be written.
pub(super) fn write_results(folder: &Path, results: &SuiteResults, outcome: &SuiteOutcome) -> Result<()> {
    make_folder(folder)?;
    atomic::write_bytes(&folder.join(SAMPLES), &json_lines(&outcome.samples))?;
    for (name, bytes) in &outcome.files {
        atomic::write_bytes(&folder.join(name), bytes)?;
    }
    write_json(&folder.join(RESULTS), results)
}

/// What the results of a suite that is finished depend on.
pub(super) fn earlier(folder: &Path) -> Option<Map<String, Value>> {
    read_json::<SuiteResults>(&folder.join(RESULTS)).ok().map(|results| results.depends_on)
}

/// The results of a suite that is finished.
///
/// # Errors
/// Results of other settings, unless they are to be replaced.
pub(super) fn finished(
    folder: &Path,
    depends_on: &Map<String, Value>,
    force: bool,
) -> Result<Option<SuiteResults>> {
    let file = folder.join(RESULTS);
    if !file.is_file() || force {
        return Ok(None);
    }
    let results: SuiteResults = read_json(&file)?;
    let keys = differing(&results.depends_on, depends_on);
    if keys.is_empty() {
        return Ok(Some(results));
    }
    Err(EngineError::input(format!(
        "{}: holds results of other settings ({}); name another folder with -o, or --force to replace them",
        folder.display(),
        keys.join(", ")
    )))
}

/// The evaluations of a model: of its own folder, of a run's `iteration_NN/` or of `start/`, by the suites' names. None where nothing was
/// evaluated.
///
/// # Errors
/// A results.json that does not read.
pub(crate) fn read_evaluations(folder: &Path) -> Result<Vec<SuiteResults>> {
    let root = folder.join(FOLDER);
    let failed = |source| EngineError::io(&root, "list the folder", source);
    let entries = match std::fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let file = entry.map_err(failed)?.path().join(RESULTS);
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    files.iter().map(|file| read_json(file)).collect()
}
