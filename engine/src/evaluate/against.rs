//! A model's results beside another's on the same rows: the paired bootstrap of each figure.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use selfplay_evaluation::suites::bootstrap::{PairedDifference, paired_bootstrap};
use selfplay_records::read_values;
use serde::Serialize;
use serde_json::Value;

use super::names::{RESULTS, SAMPLES};
use super::places::results_of;
use super::results::SuiteResults;
use crate::error::{EngineError, Result};
use crate::json_file::read_json;

/// The differences of a suite's figures: this model's less the other's.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SuiteDifference {
    /// The suite.
    pub(crate) suite: String,
    /// This model.
    pub(crate) model: String,
    /// By figure.
    pub(crate) figures: BTreeMap<String, PairedDifference>,
}

/// The rows' figures of a folder, by the rows' ids.
type Figures = HashMap<String, Vec<(String, f64)>>;

/// Compares the results in `folder` with those that `other` holds of the same suite.
///
/// # Errors
/// No results there, results of other data, a file that does not read.
pub(crate) fn compare(results: &SuiteResults, folder: &Path, other: &Path) -> Result<SuiteDifference> {
    let theirs = results_of(other, &results.suite)?;
    let before: SuiteResults = read_json(&theirs.join(RESULTS))?;
    if before.depends_on.get("data") != results.depends_on.get("data") {
        return Err(EngineError::input(format!(
            "--against {}: its {} was evaluated on other data; evaluate both on the same files",
            other.display(),
            results.suite
        )));
    }
    let ours = figures(&folder.join(&results.suite))?;
    let theirs = figures(&theirs)?;
    let mut pairs: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    // In the order of the ids: a draw's rows are the same in every process.
    let mut ids: Vec<&String> = ours.keys().filter(|id| theirs.contains_key(*id)).collect();
    ids.sort();
    for id in ids {
        for (name, first) in &ours[id] {
            if let Some((_, second)) = theirs[id].iter().find(|(other, _)| other == name) {
                pairs.entry(name.clone()).or_default().push((*first, *second));
            }
        }
    }
    let differences = pairs.into_iter().filter_map(|(name, pairs)| {
        let found = paired_bootstrap(&pairs, &format!("{}/{name}", results.suite))?;
        Some((name, found))
    });
    Ok(SuiteDifference {
        suite: results.suite.clone(),
        model: results.model.clone(),
        figures: differences.collect(),
    })
}

fn figures(folder: &Path) -> Result<Figures> {
    let rows = read_values(&folder.join(SAMPLES))?;
    let row = |mut row: serde_json::Map<String, Value>| {
        let id = row.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
        let figures = match row.remove("figures") {
            Some(Value::Object(figures)) => figures,
            _ => serde_json::Map::new(),
        };
        let figures = figures.into_iter().filter_map(|(name, value)| Some((name, value.as_f64()?)));
        (id, figures.collect())
    };
    Ok(rows.into_iter().map(row).collect())
}
