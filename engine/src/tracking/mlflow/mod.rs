//! MLflow, by its REST interface: an experiment, a run with the recipe's keys as parameters, metrics in batches, a status at the end.
//!
//! <https://mlflow.org/docs/latest/rest-api.html>: experiments/search, experiments/create, runs/create, runs/log-batch, runs/update. The
//! server's address and token come from `MLFLOW_TRACKING_URI` and `MLFLOW_TRACKING_TOKEN` and are written nowhere.
//!
//! A thread of its own sends: a server that is slow or away holds no training up. What could not be sent is tried again every half
//! minute, at the end for some seconds, and by the next process from the run's folder; `mlflow.json` says how far it came.

mod row;
mod sender;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use selfplay_client::{Client, ClientSettings};
use serde_json::{Value, json};

use super::scalars::TrackedScalar;
use crate::error::EngineError;
use crate::json_file::read_json;
use crate::run::dir::RunDir;
use crate::run::manifest::Manifest;
use crate::run::step_metrics;
pub(super) use row::MlflowStatus;
use row::{MlflowPlace, MlflowRow, MlflowRun, MlflowWork, milliseconds};
use sender::MlflowSender;

/// The address of the server.
const ADDRESS: &str = "MLFLOW_TRACKING_URI";
/// Its token.
const TOKEN: &str = "MLFLOW_TRACKING_TOKEN";
/// Seconds that one request may take.
const TIMEOUT_S: f64 = 10.0;
/// How long the end of a process waits for the last batches.
const GRACE: Duration = Duration::from_secs(15);
/// Characters of a parameter: the least that any version takes.
const MOST_CHARACTERS: usize = 250;

/// A run at a server.
#[derive(Debug)]
pub(super) struct Mlflow {
    work: Sender<MlflowWork>,
    ended: Receiver<()>,
    run: RunDir,
    /// What was sent when this process began, and what it has given to its thread since.
    sent: Mutex<MlflowRun>,
    /// The steps of all iterations before one.
    steps_before: Mutex<BTreeMap<usize, usize>>,
}

impl Mlflow {
    /// Reads the environment and starts the thread.
    ///
    /// # Errors
    /// No address of a server in the environment.
    pub(super) fn open(project: &str, run: &RunDir, manifest: &Manifest) -> Result<Self, EngineError> {
        let settings = settings()?;
        let client = Client::new(&settings, None)?;
        let file = run.root().join("mlflow.json");
        let sent: MlflowRun = if file.is_file() { read_json(&file)? } else { MlflowRun::default() };
        let (work, rows) = unbounded();
        let (tell_end, ended) = bounded(1);
        let text =
            |key: &str| manifest.recipe.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let sender = MlflowSender::new(
            client,
            [project.to_owned(), text("name")],
            parameters(manifest),
            file,
            sent.clone(),
        );
        thread::Builder::new()
            .name("mlflow".to_owned())
            .spawn(move || sender.work(&rows, &tell_end))
            .map_err(|error| EngineError::failure(format!("a thread for MLflow: {error}")))?;
        Ok(Self { work, ended, run: run.clone(), sent: Mutex::new(sent), steps_before: Mutex::default() })
    }

    /// The last step of an iteration's training that was sent or is on its way.
    pub(super) fn steps_sent(&self, iteration: usize) -> usize {
        self.sent.lock().map_or(0, |sent| sent.steps.get(&iteration).copied().unwrap_or(0))
    }

    /// The last iteration whose summary was.
    pub(super) fn iterations_sent(&self) -> Option<usize> {
        self.sent.lock().ok().and_then(|sent| sent.iterations)
    }

    /// Sends a step; on the axis it stands after the steps of all iterations before.
    pub(super) fn step(&self, iteration: usize, step: usize, scalars: &[TrackedScalar]) {
        if let Ok(mut sent) = self.sent.lock() {
            sent.steps.insert(iteration, step);
        }
        let at = self.steps_before(iteration) + step;
        self.send(MlflowPlace::Step { iteration, step }, scalars, at);
    }

    /// Sends an iteration's summary, whose step is its number.
    pub(super) fn iteration(&self, number: usize, scalars: &[TrackedScalar]) {
        if let Ok(mut sent) = self.sent.lock() {
            sent.iterations = Some(number);
        }
        self.send(MlflowPlace::Iteration(number), scalars, number);
    }

    /// Sends what waits, tells the server how the process left the run, and waits some seconds for both.
    pub(super) fn finish(&self, status: MlflowStatus) {
        if self.work.send(MlflowWork::End(status)).is_ok() {
            let _ = self.ended.recv_timeout(GRACE);
        }
    }

    fn send(&self, place: MlflowPlace, scalars: &[TrackedScalar], step: usize) {
        let time = milliseconds();
        let metric = |one: &TrackedScalar| json!({"key": one.tag, "value": one.value, "timestamp": time, "step": step});
        let finite = scalars.iter().filter(|one| one.value.is_finite());
        // The thread lives as long as the process.
        let _ = self.work.send(MlflowWork::Row(MlflowRow { place, metrics: finite.map(metric).collect() }));
    }

    fn steps_before(&self, iteration: usize) -> usize {
        let count = |number: usize| {
            step_metrics::steps(&self.run.iteration(number).train()).last().map_or(0, |last| last.step)
        };
        self.steps_before
            .lock()
            .map_or(0, |mut known| *known.entry(iteration).or_insert_with(|| (1..iteration).map(count).sum()))
    }
}

/// How the server of the environment is reached.
///
/// # Errors
/// No address in the environment, or a wrong one.
pub(super) fn settings() -> Result<ClientSettings, EngineError> {
    let address = std::env::var(ADDRESS).map_err(|_| {
        let want = "the address of an MLflow server, as in http://127.0.0.1:5000";
        EngineError::input(format!(
            "log.mlflow = true: {ADDRESS} is not set in the environment; expected {want}"
        ))
    })?;
    let has_token = std::env::var_os(TOKEN).is_some_and(|token| !token.is_empty());
    let settings = ClientSettings {
        api_key_env: has_token.then(|| TOKEN.to_owned()),
        concurrency: 1,
        timeout_s: TIMEOUT_S,
        retries: 1,
        ..ClientSettings::of(address.trim())
    };
    if !settings.validate().is_empty() {
        return Err(EngineError::input(format!(
            "{ADDRESS}: expected http://HOST[:PORT][/PATH] or https://…, without user and password; a token is taken from {TOKEN}"
        )));
    }
    Ok(settings)
}

/// The recipe's keys and the machine.
fn parameters(manifest: &Manifest) -> Vec<Value> {
    let recipe = manifest.recipe.iter().map(|(key, value)| match value {
        Value::String(text) => (key.clone(), text.clone()),
        other => (key.clone(), other.to_string()),
    });
    let here = &manifest.environment;
    let machine = [
        ("environment.selfplay", here.selfplay.clone()),
        ("environment.device", here.device.clone()),
        ("environment.platform", here.platform.clone()),
        ("environment.threads", here.threads.to_string()),
    ];
    let machine = machine.into_iter().map(|(key, value)| (key.to_owned(), value));
    let shortened = |text: String| text.chars().take(MOST_CHARACTERS).collect::<String>();
    recipe.chain(machine).map(|(key, value)| json!({"key": key, "value": shortened(value)})).collect()
}
