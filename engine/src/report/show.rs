//! `selfplay show`: a table per iteration, and the same as JSON.

use crate::console::wrap::wrapped;
use crate::error::EngineError;
use crate::evaluate::results::{SuiteResults, read_evaluations};
use crate::json_file::read_json;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::run::summary::{Evaluation, EvaluationSummary, IterationSummary, RunSummary, StartSummary};

use super::columns::ReportTable;
use super::table::columns;

/// Reads a run folder's numbers; a run in progress has those of its finished iterations.
///
/// # Errors
/// When the folder is no run folder, or a file in it does not read.
pub fn read(run: &RunDir) -> Result<RunSummary, EngineError> {
    let manifest_file = run.manifest_file();
    if !manifest_file.is_file() {
        let missing = "manifest.json".to_owned();
        return Err(EngineError::NotARun { directory: run.root().to_path_buf(), missing });
    }
    let manifest = Manifest::read(&manifest_file)?;
    let start: Option<Evaluation> =
        if run.start().is_done() { Some(read_json(&run.start().result_file())?) } else { None };
    let mut iterations = Vec::new();
    for iteration in 1..=manifest.iterations() {
        let file = run.iteration(iteration).summary_file();
        if file.is_file() {
            iterations.push(read_json::<IterationSummary>(&file)?);
        }
    }
    let evaluations = evaluations(run, manifest.iterations())?;
    Ok(RunSummary {
        name: manifest.recipe.get("name").and_then(|name| name.as_str()).unwrap_or_default().to_owned(),
        directory: run.root().display().to_string(),
        wanted: manifest.iterations(),
        finished: manifest.is_finished(),
        branched_from: manifest
            .branched_from
            .map(|origin| format!("{} {}", origin.run.display(), origin.from)),
        start: start.map_or_else(StartSummary::default, |start| StartSummary {
            eval_accuracy: start.eval_accuracy,
            characters: Some(start.characters),
            tokens: Some(start.tokens),
        }),
        iterations,
        evaluations,
    })
}

/// What the suites found of the run's policies, suite by suite.
fn evaluations(run: &RunDir, iterations: usize) -> Result<Vec<EvaluationSummary>, EngineError> {
    let mut found = Vec::new();
    for iteration in 0..=iterations {
        for results in read_evaluations(run.evaluation(iteration).root())? {
            let SuiteResults { suite, rows, metrics, .. } = results;
            found.push(EvaluationSummary { iteration, suite, rows, metrics });
        }
    }
    found.sort_by(|first, second| first.suite.cmp(&second.suite));
    Ok(found)
}

/// The run as a table for people.
pub fn render(summary: &RunSummary) -> String {
    let done = summary.iterations.len();
    let state = if summary.finished {
        "finished".to_owned()
    } else {
        format!("{done} of {} iterations", summary.wanted)
    };
    let mut text = format!("{} ({}): {state}\n", summary.name, summary.directory);
    if let Some(origin) = &summary.branched_from {
        text.push_str(&format!("branched from {origin}\n"));
    }
    text.push('\n');
    let mut rows = vec![ReportTable::HeldOut.head(), ReportTable::HeldOut.start(&summary.start)];
    rows.extend(summary.iterations.iter().map(|one| ReportTable::HeldOut.iteration(one)));
    text.push_str(&columns(&rows));
    text.push('\n');
    let mut rows = vec![ReportTable::Training.head()];
    rows.extend(summary.iterations.iter().map(|one| ReportTable::Training.iteration(one)));
    if rows.len() > 1 {
        text.push_str(&columns(&rows));
        text.push('\n');
    }
    if !summary.evaluations.is_empty() {
        text.push_str(&columns(&evaluation_rows(&summary.evaluations)));
        text.push('\n');
    }
    for one in &summary.iterations {
        text.push_str(&idle_pairs(one));
        if let Some(tokens) = one.micro_batch_tokens {
            text.push_str(&format!(
                "iteration {}: trained in passes of at most {tokens} tokens\n",
                one.iteration
            ));
        }
        if let Some(warning) = &one.length_warning {
            text.push_str(&wrapped(&format!("iteration {}: warning: {warning}", one.iteration), 0));
        }
    }
    text.push_str(
        "win rate: mean P(new ≻ old) by the preference model on the held-out prompts,\n\
         lc the same if the answers were equally long;\n\
         accuracy, length, limited and kl are of the same answers, cyclic of the\n\
         candidates; differ: sampler against trainer, nats a token at most\n",
    );
    if !summary.finished {
        text.push_str(&format!("go on with: selfplay resume {}\n", summary.directory));
    }
    text
}

/// A line for each figure of each policy, under a head.
pub(super) fn evaluation_rows(evaluations: &[EvaluationSummary]) -> Vec<Vec<String>> {
    let mut rows = vec![["suite", "figure", "iteration", "value", "±", "rows"].map(str::to_owned).to_vec()];
    for one in evaluations {
        for (name, average) in &one.metrics {
            let who = if one.iteration == 0 { "start".to_owned() } else { one.iteration.to_string() };
            let error = average.standard_error.map_or("-".to_owned(), |error| format!("{error:.4}"));
            let value = format!("{:.4}", average.value);
            rows.push(vec![one.suite.clone(), name.clone(), who, value, error, one.rows.to_string()]);
        }
    }
    rows
}

/// A line about the pairs that an iteration could learn nothing from.
fn idle_pairs(one: &IterationSummary) -> String {
    let mut parts = Vec::new();
    if one.identical_pairs > 0 {
        parts.push(format!("{} with the same tokens in both responses", one.identical_pairs));
    }
    if one.skipped_pairs > 0 {
        parts.push(format!("{} cut to nothing", one.skipped_pairs));
    }
    match parts.is_empty() {
        true => String::new(),
        false => format!("iteration {}: pairs that teach nothing: {}\n", one.iteration, parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_per_iteration_and_says_how_to_go_on() {
        let one = IterationSummary {
            iteration: 1,
            win_rate_first: Some(0.625),
            identical_pairs: 3,
            micro_batch_tokens: Some(8192),
            length_warning: Some("answers grew".into()),
            seconds: 90.0,
            ..Default::default()
        };
        let mut summary = RunSummary {
            name: "x".into(),
            directory: "runs/x".into(),
            wanted: 3,
            start: StartSummary { eval_accuracy: Some(0.5), ..StartSummary::default() },
            iterations: vec![one],
            ..RunSummary::default()
        };
        let text = render(&summary);
        assert!(text.starts_with("x (runs/x): 1 of 3 iterations\n"), "{text}");
        assert!(text.contains("50.0 %") && text.contains("62.5 %") && text.contains("1.5 min"), "{text}");
        assert!(text.contains("selfplay resume runs/x"));
        assert!(text.contains("iteration 1: warning: answers grew\n"), "{text}");
        assert!(text.contains("iteration 1: pairs that teach nothing: 3 with the same tokens"), "{text}");
        assert!(text.contains("iteration 1: trained in passes of at most 8192 tokens\n"), "{text}");
        summary.finished = true;
        assert!(!render(&summary).contains("resume"));
    }

    #[test]
    fn a_folder_without_manifest_is_no_run() {
        let folder = tempfile::tempdir().unwrap();
        let error = read(&RunDir::new(folder.path())).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("manifest.json"), "{error}");
    }
}
