//! Weights & Biases: an offline run in the run folder, which W&B's own `wandb sync` uploads. Nothing is sent from here, and no key is read.
//!
//! ```text
//! runs/x/wandb/offline-run-20260131_101500-1f0c…/run-1f0c….wandb
//! ```
//!
//! The file is made anew from the run's folder whenever an iteration or a process ends, whole or not at all: nothing is in it twice, and a
//! kill costs nothing. Steps are counted over all iterations; their times are reckoned back from the training's end by the steps' seconds.

mod store;

use std::path::{Path, PathBuf};

use selfplay_records::atomic;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::RunEnd;
use super::protobuf::WireMessage;
use super::scalars::{TrackedScalar, of_iteration, of_step};
use crate::error::EngineError;
use crate::json_file::read_json;
use crate::run::dir::RunDir;
use crate::run::events::{self, Event, EventLine};
use crate::run::manifest::Manifest;
use crate::run::step_metrics;
use crate::run::summary::IterationSummary;
use store::RecordStore;

/// Writes the offline run; `end` says how the process leaves it.
///
/// # Errors
/// A file of the run that does not read; a file that cannot be written.
pub(super) fn write(run: &RunDir, project: &str, end: Option<RunEnd>) -> Result<(), EngineError> {
    let manifest = Manifest::read(&run.manifest_file())?;
    let lines = events::read(&run.events_file());
    let begun = lines.first().map_or(0.0, |line| line.time);
    let (folder, id) = place(run, begun)?;
    let mut records = RunRecords { store: RecordStore::new(), number: 0 };
    records.run(&id, project, &manifest, begun);
    let mut history = History { begun, step: 0, latest: Vec::new() };
    for iteration in 1..=manifest.iterations() {
        history.iteration(run, iteration, &lines, &mut records)?;
    }
    records.summary(&history.latest);
    if let Some(end) = end {
        let last = lines.last().map_or(begun, |line| line.time);
        records.exit(end, last - begun);
    }
    atomic::create_dir_all(&folder)?;
    Ok(atomic::write_bytes(&folder.join(format!("run-{id}.wandb")), &records.store.into_bytes())?)
}

/// The offline run's folder and id, the same in every process.
fn place(run: &RunDir, begun: f64) -> Result<(PathBuf, String), EngineError> {
    let parent = run.root().join("wandb");
    if let Some(folder) = present(&parent)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let id = name.rsplit('-').next().unwrap_or_default().to_owned();
        return Ok((folder, id));
    }
    let root = std::path::absolute(run.root()).unwrap_or_else(|_| run.root().to_path_buf());
    let digest = Sha256::digest(format!("{} {begun}", root.display()));
    let id: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    Ok((parent.join(format!("offline-run-{}-{id}", date(begun))), id))
}

fn present(parent: &Path) -> Result<Option<PathBuf>, EngineError> {
    let entries = match std::fs::read_dir(parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EngineError::io(parent, "list the folder", source)),
    };
    let is_run = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("offline-run-") && path.is_dir()
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_run).min())
}

/// `20260131_101500`, UTC.
fn date(seconds: f64) -> String {
    let time = chrono::DateTime::from_timestamp(seconds as i64, 0).unwrap_or_default();
    time.format("%Y%m%d_%H%M%S").to_string()
}

/// Rows by step, over all iterations.
struct History {
    begun: f64,
    step: usize,
    /// The last value of each name.
    latest: Vec<TrackedScalar>,
}

impl History {
    fn iteration(
        &mut self,
        run: &RunDir,
        iteration: usize,
        lines: &[EventLine],
        records: &mut RunRecords,
    ) -> Result<(), EngineError> {
        let dir = run.iteration(iteration);
        let steps = step_metrics::steps(&dir.train());
        let trained = lines
            .iter()
            .rev()
            .find(|line| matches!(&line.event, Event::Trained { iteration: of, .. } if *of == iteration));
        let last = lines.last().map_or(self.begun, |line| line.time);
        let ended = trained.map_or(last, |line| line.time);
        let mut left: f64 = steps.iter().map(|one| one.seconds).sum();
        for metrics in &steps {
            left -= metrics.seconds;
            self.row(&of_step(metrics), ended - left, records);
        }
        if dir.summary_file().is_file() {
            let summary: IterationSummary = read_json(&dir.summary_file())?;
            let mut scalars = of_iteration(&summary);
            scalars.push(TrackedScalar { tag: "iteration/number", value: iteration as f64 });
            self.row(&scalars, last.min(ended + summary.seconds), records);
        }
        Ok(())
    }

    fn row(&mut self, scalars: &[TrackedScalar], time: f64, records: &mut RunRecords) {
        records.history(self.step, time, time - self.begun, scalars);
        self.step += 1;
        for scalar in scalars {
            self.latest.retain(|known| known.tag != scalar.tag);
            self.latest.push(*scalar);
        }
    }
}

/// Records of wandb/proto/wandb_internal.proto, numbered.
struct RunRecords {
    store: RecordStore,
    number: u64,
}

impl RunRecords {
    fn record(&mut self, field: u32, message: WireMessage) {
        self.number += 1;
        // Record { num = 1; … }
        let record = WireMessage::default().whole(1, self.number).message(field, message);
        self.store.append(&record.into_bytes());
    }

    /// Record.run = 17: run_id = 1, project = 3, config = 4, display_name = 8, start_time = 17.
    fn run(&mut self, id: &str, project: &str, manifest: &Manifest, begun: f64) {
        let item =
            |key: &str, value: &Value| WireMessage::default().text(1, key).text(16, &value.to_string());
        let mut config = WireMessage::default();
        for (key, value) in &manifest.recipe {
            config = config.message(1, item(key, value));
        }
        config = config.message(1, item("environment", &json!(manifest.environment)));
        let name = manifest.recipe.get("name").and_then(Value::as_str).unwrap_or_default();
        let start = WireMessage::default().whole(1, begun.max(0.0) as u64);
        let run = WireMessage::default()
            .text(1, id)
            .text(3, project)
            .message(4, config)
            .text(8, name)
            .message(17, start);
        self.record(17, run);
    }

    /// Record.history = 2: item = 1 { key = 1, value_json = 16 }, step = 2 { num = 1 }.
    fn history(&mut self, step: usize, time: f64, runtime: f64, scalars: &[TrackedScalar]) {
        let item = |key: &str, value: Value| WireMessage::default().text(1, key).text(16, &value.to_string());
        let mut row = WireMessage::default();
        for scalar in scalars.iter().filter(|one| one.value.is_finite()) {
            row = row.message(1, item(scalar.tag, scalar.value.into()));
        }
        for (key, value) in
            [("_step", json!(step)), ("_timestamp", json!(time)), ("_runtime", json!(runtime))]
        {
            row = row.message(1, item(key, value));
        }
        self.record(2, row.message(2, WireMessage::default().whole(1, step as u64)));
    }

    /// Record.summary = 3: update = 1 { key = 1, value_json = 16 }.
    fn summary(&mut self, latest: &[TrackedScalar]) {
        let item = |one: &TrackedScalar| {
            WireMessage::default().text(1, one.tag).text(16, &json!(one.value).to_string())
        };
        let update = latest.iter().fold(WireMessage::default(), |all, one| all.message(1, item(one)));
        self.record(3, update);
    }

    /// Record.exit = 18: exit_code = 1, runtime = 2.
    fn exit(&mut self, end: RunEnd, runtime: f64) {
        let code = match end {
            RunEnd::Finished => 0,
            RunEnd::Failed => 1,
            RunEnd::Stopped => 255,
        };
        self.record(18, WireMessage::default().whole(1, code).whole(2, runtime.max(0.0) as u64));
    }
}
