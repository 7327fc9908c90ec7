//! What the runs were made with, and what they took.

use super::super::charts::{Bar, BarChart, BarPart, NumberForm};
use super::super::escape::escape;
use super::super::model::{CostStage, PageRun, ReportPage};
use super::overview::value_text;
use super::table::table;

/// Time and memory by stage.
pub(super) fn cost(page: &ReportPage) -> String {
    let mut figures = String::new();
    for run in &page.runs {
        let name = if page.runs.len() > 1 { format!("{}: ", run.name) } else { String::new() };
        figures.push_str(&time(run, &name));
        figures.push_str(&memory(run, &name));
    }
    if figures.is_empty() {
        return String::new();
    }
    format!(
        "<h2 id=\"cost-title\">Time and memory</h2>\n\
         <p class=\"note\">Scoring runs beside sampling: the bar has what was left of it afterwards.</p>\n<div class=\"wide\">\n{figures}</div>\n"
    )
}

fn row_name(iteration: usize) -> String {
    if iteration == 0 { "start".to_owned() } else { format!("iteration {iteration}") }
}

fn time(run: &PageRun, name: &str) -> String {
    let bar = |cost: &super::super::model::IterationCost| Bar {
        name: row_name(cost.iteration),
        parts: CostStage::ALL
            .iter()
            .enumerate()
            .filter_map(|(colour, stage)| {
                let value = *cost.seconds.get(stage)?;
                Some(BarPart { name: stage.name(), colour, value })
            })
            .collect(),
    };
    let chart = BarChart {
        title: format!("{name}Time by stage"),
        meaning: "wall clock of all processes",
        form: NumberForm::Seconds,
        bars: run.costs.iter().map(bar).collect(),
    };
    if run.costs.is_empty() {
        return String::new();
    }
    let heads: Vec<&str> = std::iter::once("")
        .chain(CostStage::ALL.map(CostStage::name))
        .chain(["scorer, beside sampling", "all"])
        .collect();
    let rows: Vec<Vec<String>> = run
        .costs
        .iter()
        .map(|cost| {
            let seconds = |value: f64| NumberForm::Seconds.text(value);
            let stages = CostStage::ALL
                .iter()
                .map(|stage| cost.seconds.get(stage).map_or("–".to_owned(), |&one| seconds(one)));
            let scorer =
                if cost.scorer_seconds > 0.0 { seconds(cost.scorer_seconds) } else { "–".to_owned() };
            let all = seconds(cost.seconds.values().sum());
            std::iter::once(row_name(cost.iteration)).chain(stages).chain([scorer, all]).collect()
        })
        .collect();
    let numbers = table(&format!("{name}time by stage"), &heads, &rows);
    format!(
        "{}<details class=\"numbers\"><summary>As a table</summary>\n{numbers}</details>\n",
        chart.figure()
    )
}

/// The process's peak by the end of each stage, stage by stage below each other.
fn memory(run: &PageRun, name: &str) -> String {
    let mut bars = Vec::new();
    for cost in &run.costs {
        for (colour, stage) in CostStage::ALL.iter().enumerate() {
            if let Some(&bytes) = cost.peak_bytes.get(stage) {
                let part = BarPart { name: stage.name(), colour, value: bytes as f64 };
                bars.push(Bar { name: row_name(cost.iteration), parts: vec![part] });
            }
        }
    }
    // One bar a stage: the first of an iteration has its name.
    let mut last = String::new();
    for bar in &mut bars {
        if bar.name == last {
            bar.name = String::new();
        } else {
            last.clone_from(&bar.name);
        }
    }
    BarChart {
        title: format!("{name}Memory by stage"),
        meaning: "most resident bytes that the process had had by the end of each stage",
        form: NumberForm::Bytes,
        bars,
    }
    .figure()
}

/// Every key, and the machine.
pub(super) fn section(page: &ReportPage) -> String {
    let known: Vec<&PageRun> = page.runs.iter().filter(|run| !run.settings.is_empty()).collect();
    if known.is_empty() {
        return String::new();
    }
    let heads: Vec<&str> = std::iter::once("key").chain(known.iter().map(|run| run.name.as_str())).collect();
    let mut keys: Vec<&String> = known.iter().flat_map(|run| run.settings.keys()).collect();
    keys.sort();
    keys.dedup();
    let row = |key: &&String| {
        let values = known.iter().map(|run| run.settings.get(*key).map_or("–".to_owned(), value_text));
        std::iter::once((*key).clone()).chain(values).collect::<Vec<String>>()
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    let machines: String = known
        .iter()
        .filter_map(|run| {
            let here = run.environment.as_ref()?;
            Some(format!(
                "<li><b>{}</b>: selfplay {}, {}, {} threads, {}{}</li>\n",
                escape(&run.name),
                escape(&here.selfplay),
                escape(&here.device),
                here.threads,
                escape(&here.platform),
                escape(&here.cpu_features.iter().map(|one| format!(" {one}")).collect::<String>())
            ))
        })
        .collect();
    format!(
        "<h2 id=\"settings-title\">Settings and environment</h2>\n<ul class=\"machines\">{machines}</ul>\n\
         <details class=\"numbers\"><summary>All {} keys</summary>\n{}</details>\n",
        rows.len(),
        table("Every key of the recipe", &heads, &rows)
    )
}
