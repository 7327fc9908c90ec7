//! Requests to the hub: redirects, statuses and retries.
//!
//! The token goes to the hub's own server, never to another one after a redirect, and no redirect may lead from https to http. A
//! temporary failure (429, 5xx, a broken connection) is retried a few times; `Retry-After` is respected up to
//! [`LONGEST_WAIT`], and a longer one is reported as an error at once.

use std::time::{Duration, Instant};

use super::HubError;
use super::address::Address;
use super::body::RequestBody;
use super::environment::{self, Endpoint};
use super::error::shown;
use super::exchange::{HttpRequest, HubExchange, Interruption, ResponseHead, TICK};
use crate::signals::StopFlag;

/// Failed tries after which the error is reported.
const TRIES: u32 = 5;

/// The pause after the first failed try; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest pause between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Redirects that are followed.
const REDIRECTS: usize = 5;

/// Time in which a connection is made.
const CONNECT: Duration = Duration::from_secs(20);

/// Why a try failed.
#[derive(Debug)]
pub(super) enum TryFailure {
    /// Another try may succeed, after the pause in the server's `Retry-After`.
    Passing(HubError, Option<Duration>),
    /// No other try will succeed.
    Final(HubError),
}

impl From<HubError> for TryFailure {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// A response whose body has not been read yet.
pub(super) struct HttpResponse {
    pub(super) head: ResponseHead,
    /// The address that it came from, after redirects.
    pub(super) address: Address,
    exchange: HubExchange,
}

/// What is asked of an address.
pub(super) struct HubCall {
    pub(super) method: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: RequestBody,
}

/// A connection to the hub.
pub(super) struct HubClient {
    agent: ureq::Agent,
    pub(super) endpoint: Endpoint,
    stop: StopFlag,
    patience: Duration,
}

impl HubClient {
    /// A client of the environment's hub.
    pub(super) fn from_env() -> Result<Self, HubError> {
        let stop = StopFlag::of_process()
            .map_err(|source| HubError::Io { path: "signal handlers".into(), source })?;
        Ok(Self::new(Endpoint::from_env()?, stop, environment::patience()))
    }

    pub(super) fn new(endpoint: Endpoint, stop: StopFlag, patience: Duration) -> Self {
        // A little more than our own patience: these time-outs end the thread of an abandoned request.
        let late = patience + Duration::from_secs(5);
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("selfplay/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(late))
            .timeout_per_read(Some(late))
            .timeout_per_write(Some(late))
            .build();
        Self { agent: config.new_agent(), endpoint, stop, patience }
    }

    /// Sends one request and waits for its head.
    pub(super) fn send(
        &self,
        what: &str,
        address: Address,
        range: Option<&str>,
    ) -> Result<HttpResponse, TryFailure> {
        // Hashes are those of the bytes as they are, without a compression on the way.
        let mut headers = vec![("accept-encoding", "identity".to_owned())];
        if let Some(range) = range {
            headers.push(("range", format!("bytes={range}")));
        }
        self.exchange(what, address, HubCall { method: "GET", headers, body: RequestBody::None })
    }

    /// Sends a request with a body and waits for the head of its answer, whatever its status is. No redirect is followed.
    pub(super) fn exchange(
        &self,
        what: &str,
        address: Address,
        call: HubCall,
    ) -> Result<HttpResponse, TryFailure> {
        let HubCall { method, mut headers, body } = call;
        if let Some(authorization) = self.endpoint.authorization_for(&address) {
            headers.push(("authorization", authorization.to_owned()));
        }
        let path = body.path().unwrap_or_else(|| "a thread".into());
        let request = HttpRequest { method, url: address.url(), headers, body };
        let exchange = HubExchange::start(&self.agent, request, &self.stop, self.patience)
            .map_err(|source| HubError::Io { path, source })?;
        let head = exchange.head().map_err(|problem| self.failure(what, &address, problem))?;
        Ok(HttpResponse { head, address, exchange })
    }

    /// Sends a request and follows redirects, up to a successful response: 200 or 206, or 416 to a request with a range.
    /// Where `is_enough` holds of a redirect, the redirect itself is returned.
    pub(super) fn follow(
        &self,
        what: &str,
        start: Address,
        range: Option<&str>,
        is_enough: impl Fn(&HttpResponse) -> bool,
    ) -> Result<HttpResponse, TryFailure> {
        let mut address = start;
        for _ in 0..=REDIRECTS {
            let answer = self.send(what, address, range)?;
            match answer.head.status {
                200 | 206 => return Ok(answer),
                416 if range.is_some() => return Ok(answer),
                301 | 302 | 303 | 307 | 308 => {
                    let next = answer.redirect(what)?;
                    if is_enough(&answer) {
                        return Ok(answer);
                    }
                    address = next;
                }
                _ => return Err(answer.refusal(what, self.endpoint.address.same_server(&answer.address))),
            }
        }
        let problem = format!("more than {REDIRECTS} redirects");
        Err(HubError::Answer { what: what.to_owned(), server: self.endpoint.address.server(), problem }
            .into())
    }

    /// The next bytes of an answer's body; `None` at its end.
    pub(super) fn bytes(&self, what: &str, answer: &HttpResponse) -> Result<Option<Vec<u8>>, TryFailure> {
        answer.exchange.bytes().map_err(|problem| self.failure(what, &answer.address, problem))
    }

    /// A body of at most `most` bytes, whole.
    pub(super) fn whole(
        &self,
        what: &str,
        answer: &HttpResponse,
        most: usize,
    ) -> Result<Vec<u8>, TryFailure> {
        let mut body = Vec::new();
        while let Some(bytes) = self.bytes(what, answer)? {
            body.extend_from_slice(&bytes);
            if body.len() > most {
                return Err(answer.wrong(what, format!("more than {most} bytes")).into());
            }
        }
        match answer.head.number("content-length") {
            Some(length) if length != body.len() as u64 => {
                let problem = "the connection ended early".to_owned();
                Err(self.failure(what, &answer.address, Interruption::Broken(problem)))
            }
            _ => Ok(body),
        }
    }

    /// Retries `attempt` until it succeeds, fails finally, or has failed [`TRIES`] times.
    pub(super) fn persist<T>(
        &self,
        what: &str,
        mut attempt: impl FnMut() -> Result<T, TryFailure>,
    ) -> Result<T, HubError> {
        let mut tries = Tries::default();
        loop {
            match attempt() {
                Ok(result) => return Ok(result),
                Err(failure) => self.again(what, &mut tries, failure)?,
            }
        }
    }

    /// Waits before the next try. Returns the error if there is to be none.
    pub(super) fn again(&self, what: &str, tries: &mut Tries, failure: TryFailure) -> Result<(), HubError> {
        let (error, asked) = match failure {
            TryFailure::Final(error) => return Err(error),
            TryFailure::Passing(error, asked) => (error, asked),
        };
        tries.failed += 1;
        let wait = asked.unwrap_or(FIRST_WAIT * 2_u32.pow(tries.failed.min(10) - 1));
        if tries.failed >= TRIES || asked.is_some_and(|asked| asked > LONGEST_WAIT) {
            return Err(error);
        }
        tracing::info!("{}; the next try is in {:.1} s", error.brief(), wait.as_secs_f64());
        self.pause(what, wait)
    }

    /// Waits; fails when a stop signal arrives.
    pub(super) fn pause(&self, what: &str, wait: Duration) -> Result<(), HubError> {
        let started = Instant::now();
        while started.elapsed() < wait {
            self.check_stop(what)?;
            std::thread::sleep(TICK.min(wait.saturating_sub(started.elapsed())));
        }
        self.check_stop(what)
    }

    /// Fails when a stop signal has arrived.
    pub(super) fn check_stop(&self, what: &str) -> Result<(), HubError> {
        match self.stop.requested() {
            Some(signal) => Err(HubError::Stopped { signal, what: what.to_owned() }),
            None => Ok(()),
        }
    }

    fn failure(&self, what: &str, address: &Address, interruption: Interruption) -> TryFailure {
        let (what, server) = (what.to_owned(), address.server());
        match interruption {
            Interruption::Broken(problem) => {
                TryFailure::Passing(HubError::Unreachable { what, server, problem }, None)
            }
            Interruption::Untrusted(problem) => {
                TryFailure::Final(HubError::Unreachable { what, server, problem })
            }
            Interruption::Stop => match self.check_stop(&what) {
                Err(error) => TryFailure::Final(error),
                Ok(()) => TryFailure::Passing(
                    HubError::Unreachable { what, server, problem: "interrupted".to_owned() },
                    None,
                ),
            },
        }
    }
}

impl HttpResponse {
    /// An error about what this server sent.
    pub(super) fn wrong(&self, what: &str, problem: impl Into<String>) -> HubError {
        HubError::Answer { what: what.to_owned(), server: self.address.server(), problem: problem.into() }
    }

    /// Where a redirect leads.
    fn redirect(&self, what: &str) -> Result<Address, HubError> {
        let status = self.head.status;
        let Some(location) = self.head.header("location") else {
            return Err(
                self.wrong(what, format!("a redirect ({status}) without the address that it leads to"))
            );
        };
        match self.address.join(location) {
            Some(next) if self.address.downgrades_to(&next) => {
                Err(self
                    .wrong(what, format!("a redirect ({status}) from https to http, to {}", next.server())))
            }
            Some(next) => Ok(next),
            None => Err(self.wrong(what, format!("a redirect ({status}) to something that is no address"))),
        }
    }

    /// The error that a status other than success is.
    fn refusal(&self, what: &str, by_hub: bool) -> TryFailure {
        let status = self.head.status;
        let code = self.head.header("x-error-code");
        let what = what.to_owned();
        let refused = |answer: String| TryFailure::Final(HubError::Refused { what: what.clone(), answer });
        let busy = |problem: String| {
            let asked = self.head.number("retry-after").map(Duration::from_secs);
            TryFailure::Passing(HubError::Busy { what: what.clone(), problem }, asked)
        };
        match status {
            404 if code == Some("RevisionNotFound") => refused("no such revision (404)".to_owned()),
            404 if by_hub => refused("not found (404)".to_owned()),
            401 if by_hub => refused("not found, or not for you (401)".to_owned()),
            403 if code == Some("GatedRepo") => {
                refused("not for you (403): its licence is to be accepted on its page".to_owned())
            }
            403 if by_hub => refused("not for you (403)".to_owned()),
            429 => busy("is busy (429)".to_owned()),
            408 | 425 => busy(format!("did not wait for the request ({status})")),
            500..=599 => busy(format!("has an error of its own ({status})")),
            // A signed address that has expired: the hub issues another one.
            _ if !by_hub && (400..500).contains(&status) => {
                let problem = format!("leads to {}, which refuses ({status})", self.address.server());
                TryFailure::Passing(HubError::Busy { what: what.clone(), problem }, None)
            }
            _ => {
                let code = code.map(|code| format!(", {}", shown(code))).unwrap_or_default();
                TryFailure::Final(
                    self.wrong(&what, format!("the status {status}{code}, and a file was wanted")),
                )
            }
        }
    }
}

/// Failed tries so far.
#[derive(Debug, Default)]
pub(super) struct Tries {
    failed: u32,
}

impl Tries {
    /// Sets the count to zero, after a try that received some bytes.
    pub(super) fn reset(&mut self) {
        self.failed = 0;
    }
}
