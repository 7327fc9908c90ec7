//! What was measured, as a card's table.

use std::fs;
use std::path::Path;

use selfplay_trainer::TrainSummary;
use serde_json::Value;

use crate::run::summary::IterationSummary;

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CardResult {
    pub(crate) what: String,
    pub(crate) value: String,
}

/// A file of results has some kilobytes.
const MOST_BYTES: u64 = 16 << 20;

/// Keys of a results file that say how it came about, not how good the model is.
const NOT_RESULTS: [&str; 5] = ["seconds", "seed", "version", "time", "date"];

fn result(what: impl Into<String>, value: impl Into<String>) -> CardResult {
    CardResult { what: what.into(), value: value.into() }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// An iteration's line in `show`, without its times.
pub(crate) fn of_summary(summary: &IterationSummary) -> Vec<CardResult> {
    let mut results = Vec::new();
    let mut add = |what: &str, value: Option<String>| {
        if let Some(value) = value {
            results.push(result(what, value));
        }
    };
    let error = summary.win_rate_error.map_or(String::new(), |error| format!(" ± {}", percent(error)));
    let before = summary.win_rate_start.map(|rate| format!("{}{error}", percent(rate)));
    add("win rate against the policy before this iteration, by the preference model", before);
    add("win rate against the first policy, by the preference model", summary.win_rate_first.map(percent));
    add("the same, were the answers equally long", summary.lc_win_rate_first.map(percent));
    add("right answers to held-out prompts", summary.eval_accuracy.map(percent));
    add("tokens of an answer, mean", summary.tokens.map(|tokens| format!("{tokens:.1}")));
    add("answers that the length limit ended", summary.length_limited.map(percent));
    add("log π_new − log π_old of an answer, mean, nats", summary.kl.map(|kl| format!("{kl:.4}")));
    add("loss of the first step", summary.loss_first.map(|loss| format!("{loss:.6}")));
    add("loss of the last step", summary.loss_last.map(|loss| format!("{loss:.6}")));
    add("pairs, optimizer steps", Some(format!("{}, {}", summary.pairs, summary.steps)));
    results
}

/// What a training command tells.
pub(crate) fn of_training(summary: &TrainSummary) -> Vec<CardResult> {
    let mut results =
        vec![result("examples, optimizer steps", format!("{}, {}", summary.examples, summary.steps))];
    for (what, loss) in
        [("loss of the first step", summary.loss_first), ("loss of the last step", summary.loss_last)]
    {
        results.extend(loss.map(|loss| result(what, format!("{loss:.6}"))));
    }
    let accuracy = summary.accuracy.last();
    results.extend(accuracy.map(|last| result("accuracy on held-out comparisons", percent(last.accuracy))));
    results
}

/// The numbers of `evaluation/*/results.json` in a folder, by suite; what does not read is left out.
pub(crate) fn evaluation_results(folder: &Path) -> Vec<CardResult> {
    let mut suites: Vec<_> = fs::read_dir(folder.join("evaluation"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|one| one.path())
        .collect();
    suites.sort();
    let mut results = Vec::new();
    for suite in suites {
        let text =
            selfplay_records::read_regular(&suite.join("results.json"), MOST_BYTES).unwrap_or_default();
        let Ok(value) = serde_json::from_slice::<Value>(&text) else { continue };
        let name = suite.file_name().unwrap_or_default().to_string_lossy().into_owned();
        numbers(&name, &value, 0, &mut results);
    }
    results
}

/// A card of ours with the results of evaluations; any other text as it is.
pub(crate) fn with_evaluations(card: &str, results: &[CardResult]) -> String {
    if results.is_empty() {
        return card.to_owned();
    }
    card.replacen(super::EVALUATIONS, &format!("## Evaluation\n\n{}", table(results)), 1)
}

/// Numbers of an object and of the objects in it.
fn numbers(name: &str, value: &Value, depth: usize, results: &mut Vec<CardResult>) {
    let Value::Object(entries) = value else { return };
    for (key, value) in entries {
        if NOT_RESULTS.contains(&key.as_str()) {
            continue;
        }
        match value {
            Value::Number(number) => results.push(result(format!("{name}: {key}"), rounded(number))),
            Value::Object(_) if depth < 2 => numbers(&format!("{name}: {key}"), value, depth + 1, results),
            _ => {}
        }
    }
}

fn rounded(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if !number.is_i64() && !number.is_u64() => format!("{value:.4}"),
        _ => number.to_string(),
    }
}

/// The table.
pub(super) fn table(results: &[CardResult]) -> String {
    let cell = |text: &str| text.replace('|', "\\|").replace('\n', " ");
    let rows = results.iter().map(|one| format!("| {} | {} |\n", cell(&one.what), cell(&one.value)));
    format!("| measured | |\n|---|---|\n{}", rows.collect::<String>())
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn numbers_of_evaluations_are_listed_by_suite() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            (
                "gsm8k",
                "{\"suite\": \"gsm8k\", \"accuracy\": 0.123456, \"n\": 5, \"seconds\": 9, \"by\": {\"a|b\": 1}}",
            ),
            ("broken", "{"),
        ] {
            let suite = folder.path().join("evaluation").join(name);
            atomic::create_dir_all(&suite).unwrap();
            atomic::write_bytes(&suite.join("results.json"), text.as_bytes()).unwrap();
        }
        let table = table(&evaluation_results(folder.path()));
        assert_eq!(
            table,
            "| measured | |\n|---|---|\n| gsm8k: accuracy | 0.1235 |\n| gsm8k: n | 5 |\n| gsm8k: by: a\\|b | 1 |\n"
        );
        assert!(evaluation_results(&folder.path().join("absent")).is_empty());
    }
}
