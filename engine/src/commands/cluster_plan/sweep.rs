//! A sweep as tables of 80 columns, and its lines for a chart.

use std::fmt::Write;

use super::asked::Asked;
use crate::console::units::{duration, size};
use crate::console::wrap::wrapped;
use crate::plan::cluster::{SweepPlan, SweepPoint, SweepRow};
use crate::report::columns;
use crate::report::page::ScaleSeries;

/// The lines of the chart.
pub(super) fn efficiencies(rows: &[SweepRow]) -> Vec<ScaleSeries> {
    let points = |point: fn(&SweepRow) -> &Option<SweepPoint>| {
        rows.iter().filter_map(|row| Some((row.gpus, point(row).as_ref()?.efficiency))).collect()
    };
    let line = |name: &str, points: Vec<(usize, f64)>| ScaleSeries { name: name.to_owned(), points };
    vec![
        line("the same iteration", points(|row| &row.strong)),
        line("as many times more prompts, and pairs a step", points(|row| &row.weak)),
    ]
}

pub(super) fn sweep_text(asked: &Asked<'_>, plan: &SweepPlan<'_>, rows: &[SweepRow]) -> String {
    let recipe = &asked.shapes.recipe;
    let mut text = wrapped(
        &format!(
            "{}: {} prompts an iteration, {} pairs a step, {} in nodes of 8; {} within, {} between; files at {}/s",
            recipe.name,
            asked.work.prompts,
            recipe.train.batch_size,
            plan.gpu.title,
            plan.links.within.name,
            plan.links.between.name,
            size(asked.work.disk as u64)
        ),
        0,
    );
    let _ = writeln!(text, "\nthe same iteration on more GPUs, and its efficiency against the first row\n");
    text.push_str(&times_table(rows));
    let _ = writeln!(text, "\nhow, and which stage keeps it from shrinking further\n");
    text.push_str(&ways_table(rows));
    let _ = writeln!(text, "\nwith as many times more prompts, and pairs a step\n");
    text.push_str(&weak_table(rows));
    text
}

/// A line for each number of GPUs, with what `cells` says of its point.
fn table(
    rows: &[SweepRow],
    titles: &[&str],
    point: fn(&SweepRow) -> &Option<SweepPoint>,
    cells: fn(&SweepPoint) -> Vec<String>,
) -> String {
    let mut table: Vec<Vec<String>> = vec![titles.iter().map(|&title| title.to_owned()).collect()];
    for row in rows {
        let found = point(row).as_ref().map_or_else(|| vec!["nothing fits".to_owned()], cells);
        table.push(std::iter::once(row.gpus.to_string()).chain(found).collect());
    }
    columns(&table)
}

fn percent(share: f64) -> String {
    format!("{:.0} %", 100.0 * share)
}

fn times_table(rows: &[SweepRow]) -> String {
    let titles = ["GPUs", "sampling", "scoring", "log-probs", "training", "rest", "iteration", "eff."];
    table(
        rows,
        &titles,
        |row| &row.strong,
        |point| {
            let time = point.time;
            let seconds = [
                time.sampling,
                time.scoring,
                time.reference,
                time.training,
                time.held_out + time.files,
                time.total(),
            ];
            seconds.into_iter().map(duration).chain([percent(point.efficiency)]).collect()
        },
    )
}

fn ways_table(rows: &[SweepRow]) -> String {
    let titles = ["GPUs", "train by", "waiting of training", "prompts a shard", "lost most to"];
    table(
        rows,
        &titles,
        |row| &row.strong,
        |point| {
            vec![
                point.form.title().to_owned(),
                duration(point.time.waiting),
                point.shard_prompts.to_string(),
                point.bends.unwrap_or("-").to_owned(),
            ]
        },
    )
}

fn weak_table(rows: &[SweepRow]) -> String {
    let titles = ["GPUs", "train by", "sampling", "training", "iteration", "eff.", "lost most to"];
    table(
        rows,
        &titles,
        |row| &row.weak,
        |point| {
            vec![
                point.form.title().to_owned(),
                duration(point.time.sampling),
                duration(point.time.training),
                duration(point.time.total()),
                percent(point.efficiency),
                point.bends.unwrap_or("-").to_owned(),
            ]
        },
    )
}
