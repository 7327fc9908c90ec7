//! What goes to a server, and what it was sent.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::tracking) enum MlflowStatus {
    /// In work.
    Running,
    /// Done.
    Finished,
    /// An error.
    Failed,
    /// A signal.
    Killed,
}

/// `mlflow.json`: the run that the server made, and what it has been sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MlflowRun {
    pub(super) experiment_id: Option<String>,
    pub(super) run_id: Option<String>,
    /// The last step of each iteration's training.
    pub(super) steps: BTreeMap<usize, usize>,
    /// The last iteration's summary; 0 is the starting policy's.
    pub(super) iterations: Option<usize>,
}

/// A row that is to be sent.
pub(super) struct MlflowRow {
    pub(super) place: MlflowPlace,
    pub(super) metrics: Vec<Value>,
}

/// What a row is of.
#[derive(Clone, Copy)]
pub(super) enum MlflowPlace {
    Step { iteration: usize, step: usize },
    Iteration(usize),
}

/// What the thread is given.
pub(super) enum MlflowWork {
    Row(MlflowRow),
    End(MlflowStatus),
}

/// Since 1970.
pub(super) fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
