//! What every request reads: the policies, the limits, the counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use tokio::sync::Semaphore;

use crate::arena::Arena;
use crate::error::ApiError;
use crate::limits::ServerLimits;
use crate::metrics::Metrics;
use crate::worker::PolicyHandle;

/// The server, as its requests share it.
pub(crate) struct ServerState {
    /// The default one first.
    pub(crate) policies: Vec<Arc<PolicyHandle>>,
    pub(crate) limits: ServerLimits,
    pub(crate) metrics: Metrics,
    pub(crate) arena: Arena,
    /// Seconds of the clock at the start.
    pub(crate) started: u64,
    /// Requests that are parsed and tokenised at a time.
    pub(crate) preparing: Semaphore,
    /// Comparisons at a time.
    pub(crate) judging: Semaphore,
    /// Bytes of the bodies that are being read.
    pub(crate) body_bytes: AtomicUsize,
    /// Requests whose answer is not whole yet.
    active: AtomicUsize,
    draining: AtomicBool,
    answers: AtomicU64,
}

impl ServerState {
    pub(crate) fn new(policies: Vec<PolicyHandle>, limits: ServerLimits, arena: Arena) -> Self {
        /// A body's tokens and JSON take several times its bytes.
        const PREPARED_AT_ONCE: usize = 4;
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            policies: policies.into_iter().map(Arc::new).collect(),
            limits,
            metrics: Metrics::default(),
            arena,
            started,
            preparing: Semaphore::new(PREPARED_AT_ONCE),
            judging: Semaphore::new(1),
            body_bytes: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            answers: AtomicU64::new(0),
        }
    }

    /// The policy of this name; the first one where a request names none.
    ///
    /// # Errors
    /// A name that is not served.
    pub(crate) fn policy(&self, name: Option<&str>) -> Result<Arc<PolicyHandle>, ApiError> {
        let found = match name {
            None => self.policies.first(),
            Some(name) => self.policies.iter().find(|policy| policy.shape.name == name),
        };
        found.cloned().ok_or_else(|| {
            let names: Vec<&str> = self.policies.iter().map(|policy| policy.shape.name.as_str()).collect();
            let message = format!("model: there is no such model; served are {}", names.join(", "));
            ApiError { field: Some("model".to_owned()), ..ApiError::new(StatusCode::NOT_FOUND, message) }
        })
    }

    /// An id for an answer, different from all others of this process.
    pub(crate) fn answer_id(&self, kind: &str) -> String {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        format!("{kind}-{:x}-{number:x}", self.started)
    }

    /// A request begins; it ends where the result is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> ActiveExchange {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveExchange(self.clone())
    }

    /// Requests whose answer is not whole yet.
    pub(crate) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// A request whose answer is not whole yet.
pub(crate) struct ActiveExchange(Arc<ServerState>);

impl ActiveExchange {
    pub(crate) fn state(&self) -> &ServerState {
        &self.0
    }
}

impl Drop for ActiveExchange {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}
