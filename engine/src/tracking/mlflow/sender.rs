//! The thread that sends: a run at the server, batches, a status.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use selfplay_client::{Answers, Client, JsonRequest};
use serde_json::{Value, json};

use super::row::{MlflowPlace, MlflowRow, MlflowRun, MlflowStatus, MlflowWork, milliseconds};
use crate::console::terminal;
use crate::json_file::write_json;

/// Between two batches.
const PAUSE: Duration = Duration::from_secs(2);
/// After a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);
/// Metrics of a request, and parameters: what MLflow takes at most.
const MOST_METRICS: usize = 1000;
const MOST_PARAMETERS: usize = 100;
/// Rows that wait for a server that is away; the run's folder has the others.
const MOST_WAITING: usize = 100_000;

/// What the thread works with.
pub(super) struct MlflowSender {
    client: Client,
    project: String,
    name: String,
    parameters: Vec<Value>,
    file: PathBuf,
    state: MlflowRun,
    /// Whether the server knows that the run is in work.
    is_running: bool,
    waiting: Vec<MlflowRow>,
    has_warned: bool,
}

impl MlflowSender {
    /// For a project and a run's name, whose run at the server may be made already.
    pub(super) fn new(
        client: Client,
        [project, name]: [String; 2],
        parameters: Vec<Value>,
        file: PathBuf,
        state: MlflowRun,
    ) -> Self {
        let (is_running, waiting, has_warned) = (false, Vec::new(), false);
        Self { client, project, name, parameters, file, state, is_running, waiting, has_warned }
    }

    /// Sends what comes until the process's end is told.
    pub(super) fn work(mut self, rows: &Receiver<MlflowWork>, ended: &Sender<()>) {
        let mut next = Instant::now() + PAUSE;
        loop {
            match rows.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(MlflowWork::Row(row)) => {
                    // The oldest stay: the next process begins behind them.
                    if self.waiting.len() < MOST_WAITING {
                        self.waiting.push(row);
                    }
                }
                Ok(MlflowWork::End(status)) => {
                    let outcome = self.flush().and_then(|()| self.update(status));
                    self.warn(outcome);
                    let _ = ended.send(());
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let outcome = self.flush();
                    next = Instant::now() + if outcome.is_ok() { PAUSE } else { PAUSE_AFTER_FAILURE };
                    self.warn(outcome);
                }
            }
        }
    }

    fn warn(&mut self, outcome: Result<(), String>) {
        if let Err(problem) = outcome
            && !std::mem::replace(&mut self.has_warned, true)
        {
            terminal::line(&format!(
                "warning: log.mlflow: {problem}; the run goes on, and what is missing is sent later where that is possible"
            ));
        }
    }

    /// Sends everything that waits.
    fn flush(&mut self) -> Result<(), String> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let run_id = self.run_id()?;
        while !self.waiting.is_empty() {
            let mut metrics: Vec<Value> = Vec::new();
            let mut count = 0;
            for row in &self.waiting {
                if count > 0 && metrics.len() + row.metrics.len() > MOST_METRICS {
                    break;
                }
                metrics.extend(row.metrics.iter().cloned());
                count += 1;
            }
            self.post("runs/log-batch", json!({"run_id": run_id, "metrics": metrics}))?;
            for row in self.waiting.drain(..count) {
                match row.place {
                    MlflowPlace::Step { iteration, step } => _ = self.state.steps.insert(iteration, step),
                    MlflowPlace::Iteration(number) => self.state.iterations = Some(number),
                }
            }
            self.keep()?;
        }
        Ok(())
    }

    fn update(&mut self, status: MlflowStatus) -> Result<(), String> {
        let run_id = self.run_id()?;
        let mut body = json!({"run_id": run_id, "status": status});
        if status != MlflowStatus::Running {
            body["end_time"] = milliseconds().into();
        }
        self.post("runs/update", body).map(drop)
    }

    /// The run at the server, made where there is none yet.
    fn run_id(&mut self) -> Result<String, String> {
        if let Some(run_id) = self.state.run_id.clone() {
            if !self.is_running {
                // Of an earlier process, which told the server how it ended.
                self.is_running = true;
                self.post("runs/update", json!({"run_id": run_id, "status": MlflowStatus::Running}))?;
            }
            return Ok(run_id);
        }
        let experiment_id = match self.state.experiment_id.clone() {
            Some(experiment_id) => experiment_id,
            None => self.experiment_id()?,
        };
        let tags = json!([{"key": "mlflow.source.name", "value": "selfplay"}]);
        let body = json!({
            "experiment_id": experiment_id, "run_name": self.name, "start_time": milliseconds(), "tags": tags,
        });
        let answer = self.post("runs/create", body)?;
        let run_id = text_at(&answer, "/run/info/run_id")?;
        self.state.experiment_id = Some(experiment_id);
        self.state.run_id = Some(run_id.clone());
        self.is_running = true;
        self.keep()?;
        for some in self.parameters.clone().chunks(MOST_PARAMETERS) {
            self.post("runs/log-batch", json!({"run_id": run_id, "params": some}))?;
        }
        Ok(run_id)
    }

    fn experiment_id(&self) -> Result<String, String> {
        // No name that the recipe allows has a quote in it.
        let filter = format!("name = '{}'", self.project);
        let found = self.post("experiments/search", json!({"filter": filter, "max_results": 1}))?;
        if let Ok(id) = text_at(&found, "/experiments/0/experiment_id") {
            return Ok(id);
        }
        text_at(&self.post("experiments/create", json!({"name": self.project}))?, "/experiment_id")
    }

    fn keep(&self) -> Result<(), String> {
        write_json(&self.file, &self.state).map_err(|error| error.to_string())
    }

    fn post(&self, call: &str, body: Value) -> Result<Value, String> {
        let request = JsonRequest { path: format!("api/2.0/mlflow/{call}"), body, number: 0 };
        let read = |_, answer: &Value| Ok(answer.clone());
        match self.client.ask(vec![request], read, &mut |_| ControlFlow::Continue(())) {
            Ok(Answers::All(mut answers) | Answers::Stopped(mut answers)) => {
                answers.pop().ok_or_else(|| format!("{call}: no answer"))
            }
            Err(error) => Err(format!("{call}: {error}")),
        }
    }
}

fn text_at(answer: &Value, pointer: &str) -> Result<String, String> {
    let text = answer.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| format!("the server's answer has no {pointer}"))
}
