//! The threads of one call: each takes the next request, tries it until it is answered or may not be tried again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::endpoint::{ServiceEndpoint, choose, has_another};
use crate::exchange::{JsonExchange, RequestFailure};
use crate::lock::lock;
use crate::request::{AnswerReader, AnswerRules, JsonRequest};
use crate::transcript::RequestKey;
use crate::{ClientError, Transcript, Usage, retry};

/// How often a pause looks whether the call was called off.
const TICK: Duration = Duration::from_millis(50);

/// So many refusals before the first answer say that it is not the single request which the server refuses.
const REFUSED_AT_FIRST: usize = 16;

/// What all requests of a client share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) exchange: JsonExchange,
    pub(crate) endpoints: Vec<Arc<ServiceEndpoint>>,
    pub(crate) retries: u32,
    pub(crate) transcript: Option<Mutex<Transcript>>,
    pub(crate) usage: Mutex<Usage>,
    /// Who gave which answer, since the answers were last believed.
    pub(crate) given: Mutex<Vec<GivenAnswer>>,
}

/// An answer, by its request, and the place of the endpoint that gave it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GivenAnswer {
    pub(crate) key: RequestKey,
    pub(crate) endpoint: usize,
}

/// One request of a call.
pub(crate) struct PendingRequest {
    /// Its place in the call: what is asked twice in a call is asked once and answered at every place.
    pub(crate) places: Vec<usize>,
    pub(crate) request: JsonRequest,
    pub(crate) key: RequestKey,
}

/// What a thread reports.
pub(crate) type Report<T> = Result<Vec<(usize, T)>, ClientError>;

/// The requests of one call that are still to be asked.
pub(crate) struct ClientWork<T> {
    pub(crate) service: Arc<Service>,
    pub(crate) tasks: Mutex<VecDeque<PendingRequest>>,
    pub(crate) called_off: AtomicBool,
    rules: AnswerRules<T>,
    /// Requests to be asked.
    wanted: usize,
    /// Those that were answered, in this call or by the transcript.
    answered: AtomicUsize,
    /// Those that were refused for their own sake.
    refused: AtomicUsize,
}

impl<T> ClientWork<T> {
    /// Nothing is asked yet; `answered` are the answers that the transcript had.
    pub(crate) fn new(
        service: Arc<Service>,
        tasks: VecDeque<PendingRequest>,
        rules: AnswerRules<T>,
        answered: usize,
    ) -> Self {
        let wanted = tasks.len();
        let (tasks, called_off) = (Mutex::new(tasks), AtomicBool::new(false));
        let (answered, refused) = (AtomicUsize::new(answered), AtomicUsize::new(0));
        Self { service, tasks, called_off, rules, wanted, answered, refused }
    }

    /// A thread's work: ends when there is nothing left, when the call was called off, or at an error.
    pub(crate) fn run(&self, reports: &Sender<Report<T>>) {
        while !self.is_called_off() {
            let Some(task) = lock(&self.tasks).pop_front() else { return };
            let report = match self.service.persist(&task, &self.called_off, &*self.rules.read) {
                Ok(None) => return,
                Ok(Some(answers)) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    Ok(answers)
                }
                Err(error) => self.refusal(&task, error),
            };
            let failed = report.is_err();
            if reports.send(report).is_err() || failed {
                return;
            }
        }
    }

    /// What is reported of a request that failed: the refusal as its answer where the call takes those, and not
    /// everything is refused.
    fn refusal(&self, task: &PendingRequest, error: ClientError) -> Report<T> {
        let (Some(refused), Some(words)) = (self.rules.refused, error.of_one_request()) else {
            return Err(error);
        };
        let count = 1 + self.refused.fetch_add(1, Ordering::Relaxed);
        if self.answered.load(Ordering::Relaxed) == 0 && count >= REFUSED_AT_FIRST.min(self.wanted) {
            return Err(error);
        }
        tracing::debug!("{error}");
        Ok(task.places.iter().map(|&place| (place, refused(words.clone()))).collect())
    }

    fn is_called_off(&self) -> bool {
        self.called_off.load(Ordering::Relaxed)
    }
}

impl Service {
    /// Tries a request until it is answered; `None` where the call was called off before.
    fn persist<T>(
        &self,
        task: &PendingRequest,
        called_off: &AtomicBool,
        read: &AnswerReader<T>,
    ) -> Result<Option<Vec<(usize, T)>>, ClientError> {
        let first = task.places.first().copied().unwrap_or(0);
        let mut tries = 0_u32;
        let mut failed = None;
        loop {
            let place = choose(&self.endpoints, first, failed);
            let endpoint = &self.endpoints[place];
            if !wait(endpoint.rests_for(), called_off) {
                return Ok(None);
            }
            let request = &task.request;
            let body = (!request.body.is_null()).then_some(&request.body);
            let tried = endpoint.send(&self.exchange, &request.path, body).and_then(|answer| {
                let read: Result<Vec<_>, String> =
                    task.places.iter().map(|&place| Ok((place, read(place, &answer)?))).collect();
                match read {
                    Ok(read) => Ok((answer, read)),
                    Err(problem) => Err(RequestFailure::passing(problem)),
                }
            });
            let (problem, asked) = match tried {
                Ok((answer, read)) => {
                    endpoint.count_answer();
                    self.keep(task, &answer)?;
                    lock(&self.given).push(GivenAnswer { key: task.key, endpoint: place });
                    return Ok(Some(read));
                }
                // A server that lacks what the others have: one that was started anew without the adapter, say.
                Err(RequestFailure::Final(error))
                    if error.is_of_endpoint() && has_another(&self.endpoints, place) =>
                {
                    tracing::warn!("{error}; it is left out while others answer");
                    endpoint.set_left_out(true);
                    failed = Some(place);
                    continue;
                }
                Err(RequestFailure::Final(error)) => return Err(error),
                Err(RequestFailure::Passing { problem, asked }) => (problem, asked),
            };
            tries += 1;
            let url = endpoint.below(&request.path);
            if tries > self.retries {
                return Err(ClientError::Unavailable { url, problem, tries });
            }
            failed = Some(place);
            let elsewhere = has_another(&self.endpoints, place);
            // With another endpoint to ask, this request goes there at once, and whoever failed is left alone for a while.
            let times = if elsewhere { endpoint.count_failure() } else { tries };
            let pause = asked.unwrap_or_else(|| retry::pause(times, task.key.number()));
            tracing::info!("{url}: {problem}; it is asked again in {:.1} s", pause.as_secs_f64());
            lock(&self.usage).retried += 1;
            if asked.is_some() || elsewhere {
                // Everyone else who would ask this endpoint waits as well.
                endpoint.rest(pause);
            }
            if !elsewhere && !wait(pause, called_off) {
                return Ok(None);
            }
        }
    }

    fn keep(&self, task: &PendingRequest, answer: &Value) -> Result<(), ClientError> {
        if let Some(transcript) = &self.transcript {
            lock(transcript).keep(task.key, &task.request, answer)?;
        }
        let mut usage = lock(&self.usage);
        usage.asked += 1;
        usage.add_tokens(answer);
        Ok(())
    }
}

/// Waits; `false` where the call was called off meanwhile.
fn wait(time: Duration, called_off: &AtomicBool) -> bool {
    let until = Instant::now() + time;
    loop {
        if called_off.load(Ordering::Relaxed) {
            return false;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(TICK));
    }
}
