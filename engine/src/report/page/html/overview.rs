//! What was gained: large numbers of each run, the keys in which runs differ, `show`'s columns for all of them.

use serde_json::Value;

use super::super::super::columns::ReportTable;
use super::super::super::show::evaluation_rows;
use super::super::charts::NumberForm;
use super::super::escape::escape;
use super::super::model::{PageRun, ReportPage};
use super::COLOURS;
use super::table::table;

/// The section.
pub(super) fn section(page: &ReportPage) -> String {
    let mut text = "<h2 id=\"overview-title\">Overview</h2>\n".to_owned();
    for (number, run) in page.runs.iter().enumerate() {
        text.push_str(&gains(run, (page.runs.len() > 1).then_some(number)));
    }
    text.push_str(&keys(page));
    text.push_str(&iterations(page));
    text.push_str(&suites(page));
    text
}

/// A number with what it was at first.
struct Gain {
    name: &'static str,
    now: String,
    then: String,
}

fn gains(run: &PageRun, number: Option<usize>) -> String {
    let percent = |value: f64| NumberForm::Percent.text(value);
    let last = run.iterations.last();
    let mut gains = Vec::new();
    let mut add = |name, now: Option<String>, then: Option<String>| {
        if let Some(now) = now {
            gains.push(Gain { name, now, then: then.unwrap_or_default() });
        }
    };
    let start = &run.start;
    add(
        "accuracy",
        last.and_then(|one| one.eval_accuracy).map(percent),
        start.eval_accuracy.map(|share| format!("{} at the start", percent(share))),
    );
    add(
        "win rate against the first policy",
        last.and_then(|one| one.win_rate_first).map(percent),
        last.and_then(|one| one.lc_win_rate_first).map(|share| format!("{} at equal length", percent(share))),
    );
    add(
        "tokens an answer",
        last.and_then(|one| one.tokens).map(|tokens| format!("{tokens:.1}")),
        start.tokens.map(|tokens| format!("{tokens:.1} at the start")),
    );
    add(
        "KL of the last iteration",
        last.and_then(|one| one.kl).map(|kl| NumberForm::Plain.text(kl)),
        Some("nats an answer, against the policy before".to_owned()),
    );
    let first = run.trainings.first().and_then(|steps| steps.first());
    let newest = run.trainings.last().and_then(|steps| steps.last());
    add(
        "loss of the last step",
        newest.map(|step| NumberForm::Plain.text(step.loss)),
        first.map(|step| format!("{} at the first", NumberForm::Plain.text(step.loss))),
    );
    let seconds: f64 = run.costs.iter().flat_map(|cost| cost.seconds.values()).sum();
    add("wall clock", (seconds > 0.0).then(|| NumberForm::Seconds.text(seconds)), None);
    let tile = |gain: &Gain| {
        format!(
            "<li><span class=\"what\">{}</span> <b>{}</b> <span class=\"then\">{}</span></li>\n",
            escape(gain.name),
            escape(&gain.now),
            escape(&gain.then)
        )
    };
    let head = number.map_or_else(String::new, |number| {
        format!("<h3 class=\"run b{}\">{}</h3>\n", number % COLOURS, escape(&run.name))
    });
    let tiles = match gains.is_empty() {
        true => String::new(),
        false => format!("<ul class=\"tiles\">\n{}</ul>\n", gains.iter().map(tile).collect::<String>()),
    };
    let warnings: String = run
        .iterations
        .iter()
        .filter_map(|one| Some((one.iteration, one.length_warning.as_ref()?)))
        .map(|(iteration, warning)| {
            format!("<p class=\"warning\">Iteration {iteration}: {}</p>\n", escape(warning))
        })
        .collect();
    let missing: String = run.missing.iter().map(|what| format!("<li>{}</li>\n", escape(what))).collect();
    let missing = match missing.is_empty() {
        true => missing,
        false => format!(
            "<details class=\"missing\"><summary>Not on this page ({})</summary>\n<ul>{missing}</ul></details>\n",
            run.missing.len()
        ),
    };
    format!("{head}{tiles}{warnings}{missing}")
}

fn keys(page: &ReportPage) -> String {
    if page.keys.is_empty() {
        return String::new();
    }
    let heads: Vec<&str> =
        std::iter::once("key").chain(page.runs.iter().map(|run| run.name.as_str())).collect();
    let rows: Vec<Vec<String>> = page
        .keys
        .iter()
        .map(|(key, values)| std::iter::once(key.clone()).chain(values.iter().map(value_text)).collect())
        .collect();
    table("Keys in which the runs differ", &heads, &rows)
}

/// A key's value as a recipe has it; a dash where it is absent.
pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(value_text).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// The columns of `show`.
fn iterations(page: &ReportPage) -> String {
    if page.runs.iter().all(|run| run.iterations.is_empty() && run.start.characters.is_none()) {
        return String::new();
    }
    let mut text = String::new();
    for (caption, which) in [
        ("On the held-out prompts", ReportTable::HeldOut),
        ("Candidates, pairs and training", ReportTable::Training),
    ] {
        let heads = which.head();
        let has_run = page.runs.len() > 1;
        let run_head = has_run.then_some("run");
        let heads: Vec<&str> = run_head.into_iter().chain(heads.iter().map(String::as_str)).collect();
        let mut rows = Vec::new();
        for run in &page.runs {
            let lines = (which == ReportTable::HeldOut).then(|| which.start(&run.start));
            let lines = lines.into_iter().chain(run.iterations.iter().map(|one| which.iteration(one)));
            let name = has_run.then(|| run.name.clone());
            rows.extend(lines.map(|line| name.clone().into_iter().chain(line).collect::<Vec<String>>()));
        }
        if !rows.is_empty() {
            text.push_str(&table(caption, &heads, &rows));
        }
    }
    text
}

/// What published suites found, policy by policy.
fn suites(page: &ReportPage) -> String {
    let has_run = page.runs.len() > 1;
    let (mut heads, mut rows) = (Vec::new(), Vec::new());
    for run in page.runs.iter().filter(|run| !run.evaluations.is_empty()) {
        let name = |text: &str| has_run.then(|| text.to_owned()).into_iter();
        let mut lines = evaluation_rows(&run.evaluations).into_iter();
        heads = name("run").chain(lines.next().unwrap_or_default()).collect::<Vec<String>>();
        rows.extend(lines.map(|line| name(&run.name).chain(line).collect::<Vec<String>>()));
    }
    if rows.is_empty() {
        return String::new();
    }
    table("Published suites", &heads.iter().map(String::as_str).collect::<Vec<_>>(), &rows)
}
