//! `selfplay show` of a chain: a line per link, and the same as JSON.

use std::path::{Path, PathBuf};

use selfplay_records::read_regular;
use serde::Serialize;
use serde_json::Value;

use super::dir::{ChainDir, LinkState};
use super::link::Link;
use super::work;
use crate::console::units::duration;
use crate::error::{EngineError, Result};
use crate::json_file::read_json;
use crate::recipe::LinkCommand;
use crate::report;
use crate::run::dir::RunDir;
use crate::run::summary::RunSummary;

/// `show --json` of a chain.
#[derive(Debug, Serialize)]
pub(crate) struct ChainSummary {
    /// The chain's name.
    name: String,
    /// Its folder.
    directory: String,
    /// Whether every link is finished.
    finished: bool,
    /// In order.
    links: Vec<LinkSummary>,
}

/// A link's line.
#[derive(Debug, Default, Serialize)]
struct LinkSummary {
    name: String,
    command: &'static str,
    /// `waiting`, `in work` or `finished`.
    state: &'static str,
    /// The model or the file of rows that the link leaves, once it is finished.
    output: Option<String>,
    /// Rows that a synthesis has kept.
    rows: Option<u64>,
    /// Optimizer steps so far.
    steps: Option<u64>,
    /// Loss of the first step.
    loss_first: Option<f64>,
    /// Loss of the last step so far.
    loss_last: Option<f64>,
    /// Of a preference model: share of held-out pairs in the right order, after the last epoch.
    accuracy: Option<f64>,
    /// Of a run: mean P(new ≻ first policy) after the last iteration that is finished.
    win_rate_first: Option<f64>,
    /// Wall clock of its steps, of a run of its iterations.
    seconds: Option<f64>,
    /// Of a run: what its own `show --json` has.
    run: Option<RunSummary>,
}

/// Reads a chain's folder. It takes no lock: a chain in progress shows how far it is.
///
/// # Errors
/// A file in it that does not read.
pub(crate) fn read(dir: &ChainDir) -> Result<ChainSummary> {
    let chain = work::read(dir, &[])?;
    let links = chain.links.iter().map(|link| link_summary(link, dir)).collect::<Result<Vec<_>>>()?;
    Ok(ChainSummary {
        name: chain.name,
        directory: dir.root().display().to_string(),
        finished: links.iter().all(|link| link.state == LinkState::Finished.name()),
        links,
    })
}

/// Names and folders of the links of which `report` has something to tell: those of runs and trainings that have begun.
///
/// # Errors
/// A file of the chain that does not read.
pub(crate) fn reported_links(dir: &ChainDir) -> Result<Vec<(String, PathBuf)>> {
    let chain = work::read(dir, &[])?;
    let mut links = Vec::new();
    for link in &chain.links {
        let folder = dir.link(link);
        let is_told = match link.command {
            LinkCommand::Merge | LinkCommand::Synthesize => false,
            LinkCommand::Run => RunDir::new(&folder).manifest_file().is_file(),
            LinkCommand::Sft | LinkCommand::Train | LinkCommand::TrainPreference => {
                [folder.clone(), dir.parts(link)].iter().any(|place| place.join("metrics.jsonl").is_file())
            }
        };
        if is_told {
            links.push((link.name.clone(), folder));
        }
    }
    Ok(links)
}

fn link_summary(link: &Link, dir: &ChainDir) -> Result<LinkSummary> {
    let state = dir.state(link)?;
    let summary = LinkSummary {
        name: link.name.clone(),
        command: link.command.name(),
        state: state.name(),
        output: (state == LinkState::Finished).then(|| link.output.place.display().to_string()),
        ..LinkSummary::default()
    };
    match (state, link.command) {
        (LinkState::Waiting, _) | (_, LinkCommand::Merge) => Ok(summary),
        (_, LinkCommand::Synthesize) => of_synthesis(summary, &dir.link(link).join("counts.json")),
        (_, LinkCommand::Run) => of_run(summary, &RunDir::new(dir.link(link))),
        (LinkState::InWork, _) => of_training(summary, &dir.parts(link)),
        (LinkState::Finished, _) => of_training(summary, &dir.link(link)),
    }
}

fn of_run(summary: LinkSummary, run: &RunDir) -> Result<LinkSummary> {
    let run = report::read(run)?;
    let (first, last) = (run.iterations.first(), run.iterations.last());
    Ok(LinkSummary {
        steps: Some(run.iterations.iter().map(|one| one.steps as u64).sum()),
        loss_first: first.and_then(|one| one.loss_first),
        loss_last: last.and_then(|one| one.loss_last),
        win_rate_first: last.and_then(|one| one.win_rate_first),
        seconds: Some(run.iterations.iter().map(|one| one.seconds).sum()),
        run: Some(run),
        ..summary
    })
}

/// `counts.json` is the last that a synthesis writes.
fn of_synthesis(summary: LinkSummary, counts: &Path) -> Result<LinkSummary> {
    if !counts.is_file() {
        return Ok(summary);
    }
    let counts: Value = read_json(counts)?;
    Ok(LinkSummary { rows: counts["kept"].as_u64(), ..summary })
}

fn of_training(summary: LinkSummary, folder: &Path) -> Result<LinkSummary> {
    let steps = lines(&folder.join("metrics.jsonl"))?;
    let accuracy = lines(&folder.join("accuracy.jsonl"))?;
    let number = |line: Option<&Value>, key: &str| line.and_then(|line| line[key].as_f64());
    Ok(LinkSummary {
        steps: Some(steps.last().and_then(|line| line["step"].as_u64()).unwrap_or(0)),
        loss_first: number(steps.first(), "loss"),
        loss_last: number(steps.last(), "loss"),
        accuracy: number(accuracy.last(), "accuracy"),
        seconds: Some(steps.iter().filter_map(|line| line["seconds"].as_f64()).sum()),
        ..summary
    })
}

/// The lines of a log that are whole; none where it is absent. A line in work is no error.
fn lines(path: &Path) -> Result<Vec<Value>> {
    match read_regular(path, u64::MAX) {
        Ok(bytes) => Ok(bytes
            .split(|&byte| byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(EngineError::io(path, "read", source)),
    }
}

const HEAD: [&str; 8] = ["link", "command", "state", "steps", "loss first", "loss last", "gained", "time"];

/// The chain as a table for people.
pub(crate) fn render(summary: &ChainSummary) -> String {
    let done = summary.links.iter().filter(|link| link.state == LinkState::Finished.name()).count();
    let state = match summary.finished {
        true => "finished".to_owned(),
        false => format!("{done} of {} links", summary.links.len()),
    };
    let mut text = format!("{} ({}): {state}\n\n", summary.name, summary.directory);
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(summary.links.iter().map(row));
    text.push_str(&report::columns(&rows));
    text.push_str(
        "\ngained: of a run P(new ≻ first), of a preference model its accuracy,\nof a synthesis its rows\n",
    );
    for link in summary.links.iter().filter(|link| link.run.is_some()) {
        text.push_str(&format!("its iterations: selfplay show {}/{}\n", summary.directory, link.name));
    }
    if !summary.finished {
        text.push_str(&format!("go on with: selfplay resume {}\n", summary.directory));
    }
    text
}

fn row(link: &LinkSummary) -> Vec<String> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let loss = |loss: Option<f64>| or_dash(loss.map(|loss| format!("{loss:.4}")));
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let gained = link.win_rate_first.or(link.accuracy).map(percent);
    let state = match &link.run {
        Some(run) if !run.finished => format!("{} of {}", run.iterations.len(), run.wanted),
        _ => link.state.to_owned(),
    };
    vec![
        link.name.clone(),
        link.command.to_owned(),
        state,
        or_dash(link.steps.map(|steps| steps.to_string())),
        loss(link.loss_first),
        loss(link.loss_last),
        or_dash(gained.or(link.rows.map(|rows| format!("{rows} rows")))),
        or_dash(link.seconds.map(duration)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_per_link_and_says_how_to_go_on() {
        let link = |name: &str, command, state: LinkState| LinkSummary {
            name: name.to_owned(),
            command,
            state: state.name(),
            ..LinkSummary::default()
        };
        let trained = LinkSummary {
            steps: Some(12),
            loss_first: Some(0.75),
            loss_last: Some(0.5),
            accuracy: Some(0.625),
            seconds: Some(90.0),
            ..link("gpm", "train-preference", LinkState::Finished)
        };
        let mut summary = ChainSummary {
            name: "x".to_owned(),
            directory: "runs/x".to_owned(),
            finished: false,
            links: vec![trained, link("play", "run", LinkState::Waiting)],
        };
        let text = render(&summary);
        assert!(text.starts_with("x (runs/x): 1 of 2 links\n"), "{text}");
        for words in ["0.7500", "0.5000", "62.5 %", "1.5 min", "waiting", "selfplay resume runs/x"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        summary.finished = true;
        assert!(!render(&summary).contains("resume"));
    }
}
