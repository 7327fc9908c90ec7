//! `selfplay compare`: several runs beside each other, with the keys in which their recipes differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::EngineError;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::run::summary::RunSummary;

use super::agreement::{JudgeAgreement, with_first};
use super::columns::ReportTable;
use super::show;
use super::table::columns;

/// `compare --json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunComparison {
    /// Recipe keys that are not the same in all runs, with each run's value in order.
    pub keys: BTreeMap<String, Vec<Value>>,
    /// The runs, as `show --json` has them.
    pub runs: Vec<RunSummary>,
    /// How the later runs' preference models judge the candidates that they share with the first run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agreement: Vec<JudgeAgreement>,
}

/// Reads the runs.
///
/// # Errors
/// When one is no run folder.
pub fn compare(runs: &[RunDir]) -> Result<RunComparison, EngineError> {
    let summaries = runs.iter().map(show::read).collect::<Result<Vec<_>, _>>()?;
    let manifests =
        runs.iter().map(|run| Manifest::read(&run.manifest_file())).collect::<Result<Vec<_>, _>>()?;
    let iterations = summaries.iter().map(|run| run.wanted).max().unwrap_or(0);
    let keys = differing(&manifests.iter().map(|manifest| &manifest.recipe).collect::<Vec<_>>());
    // The same preference model says the same.
    let is_judged_otherwise = keys.keys().any(|key| key.starts_with("score."));
    let agreement = if is_judged_otherwise { with_first(runs, iterations)? } else { Vec::new() };
    Ok(RunComparison { keys, runs: summaries, agreement })
}

/// Keys with more than one value.
pub(super) fn differing(recipes: &[&BTreeMap<String, Value>]) -> BTreeMap<String, Vec<Value>> {
    let mut keys = BTreeMap::new();
    for key in recipes.iter().flat_map(|recipe| recipe.keys()) {
        let values: Vec<Value> =
            recipes.iter().map(|recipe| recipe.get(key).cloned().unwrap_or(Value::Null)).collect();
        if values.windows(2).any(|two| two[0] != two[1]) {
            keys.insert(key.clone(), values);
        }
    }
    keys
}

/// The comparison as tables for people.
pub fn render(comparison: &RunComparison) -> String {
    let mut text = String::new();
    if !comparison.keys.is_empty() {
        let mut rows = vec![heads("key", comparison)];
        for (key, values) in &comparison.keys {
            let shown = values.iter().map(|value| match value {
                Value::Null => "-".to_owned(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
            rows.push(std::iter::once(key.clone()).chain(shown).collect());
        }
        text.push_str(&columns(&rows));
        text.push('\n');
    }
    let mut rows = vec![in_run("run", ReportTable::Compare.head())];
    for run in &comparison.runs {
        rows.push(in_run(&run.directory, ReportTable::Compare.start(&run.start)));
        rows.extend(run.iterations.iter().map(|one| in_run("", ReportTable::Compare.iteration(one))));
    }
    text.push_str(&columns(&rows));
    for run in comparison.runs.iter().filter(|run| !run.evaluations.is_empty()) {
        text.push_str(&format!("\n{}: suites\n", run.directory));
        text.push_str(&columns(&show::evaluation_rows(&run.evaluations)));
    }
    if !comparison.agreement.is_empty() {
        text.push_str("\nthe same candidates, judged by the first run's preference model and by these:\n");
        text.push_str(&columns(&agreement_rows(&comparison.agreement)));
    }
    text
}

fn agreement_rows(found: &[JudgeAgreement]) -> Vec<Vec<String>> {
    let head = [
        "run",
        "iteration",
        "prompts",
        "same winner",
        "same best and worst",
        "changed",
        "best alone",
        "worst alone",
        "turned round",
        "mean |ΔP|",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let percent = |share: f64| format!("{:.1} %", 100.0 * share);
    rows.extend(found.iter().map(|one| {
        vec![
            one.run.clone(),
            one.iteration.to_string(),
            one.prompts.to_string(),
            one.same_winner.map_or("-".to_owned(), percent),
            percent(one.same_best_and_worst),
            one.changed.to_string(),
            one.best_changed.to_string(),
            one.worst_changed.to_string(),
            one.turned_round.to_string(),
            one.difference.map_or("-".to_owned(), |difference| format!("{difference:.3}")),
        ]
    }));
    rows
}

/// A line with the run's name before it.
fn in_run(name: &str, line: Vec<String>) -> Vec<String> {
    std::iter::once(name.to_owned()).chain(line).collect()
}

fn heads(first: &str, comparison: &RunComparison) -> Vec<String> {
    std::iter::once(first.to_owned()).chain(comparison.runs.iter().map(|run| run.directory.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::manifest::Environment;

    #[test]
    fn only_differing_keys_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let mut runs = Vec::new();
        for (name, beta) in [("a", "0.1"), ("b", "0.2")] {
            let run = RunDir::new(folder.path().join(name));
            run.create().unwrap();
            let table =
                toml::from_str(&format!("name = \"x\"\niterations = 1\n[train]\nbeta = {beta}")).unwrap();
            Manifest::new(&table, 42, Environment::here("cpu")).write(&run.manifest_file()).unwrap();
            runs.push(run);
        }
        let comparison = compare(&runs).unwrap();
        assert_eq!(comparison.keys.keys().collect::<Vec<_>>(), ["train.beta"]);
        assert_eq!(comparison.keys["train.beta"], [Value::from(0.1), Value::from(0.2)]);
        let text = render(&comparison);
        assert!(text.contains("train.beta") && !text.contains("x\n"), "{text}");
        let json = serde_json::to_string(&comparison).unwrap();
        assert_eq!(serde_json::from_str::<RunComparison>(&json).unwrap(), comparison);
    }
}
