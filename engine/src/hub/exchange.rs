//! One request and its response, made by a thread of its own.
//!
//! A name server, a connection or a read can block for a long time. A thread of its own waits for them, while the
//! caller checks the stop flag ten times a second. A silent server is left to that thread, which ends by the client's
//! time-outs.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::body::{CountedBody, RequestBody};
use crate::signals::StopFlag;

/// Time between two checks of the stop flag.
pub(super) const TICK: Duration = Duration::from_millis(100);

/// Bytes of one piece of a body.
const PIECE: usize = 1 << 18;

/// Pieces that may wait for the caller.
const WAITING: usize = 8;

/// Headers that are read.
const HEADERS: [&str; 10] = [
    "content-length",
    "content-range",
    "date",
    "etag",
    "location",
    "retry-after",
    "x-error-code",
    "x-linked-etag",
    "x-linked-size",
    "x-repo-commit",
];

/// Status and headers of a response.
#[derive(Debug, Default)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    headers: BTreeMap<&'static str, String>,
}

impl ResponseHead {
    /// A header of [`HEADERS`].
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// A header that is a number.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.trim().parse().ok()
    }

    /// First byte and total size of `Content-Range: bytes A-B/TOTAL`.
    pub(super) fn content_range(&self) -> Option<(u64, Option<u64>)> {
        let (range, total) = self.header("content-range")?.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, _) = range.split_once('-')?;
        Some((first.parse().ok()?, total.parse().ok()))
    }
}

/// Why a response ended early.
#[derive(Debug)]
pub(super) enum Interruption {
    /// A stop signal has arrived.
    Stop,
    /// The connection failed or broke, or the server was silent for too long.
    Broken(String),
    /// The server is not the one that it claims to be, or uses no TLS: another try would fail too.
    Untrusted(String),
}

enum ExchangeMessage {
    Head(ResponseHead),
    Bytes(Vec<u8>),
    End,
    Failed(Interruption),
}

/// A request before it is sent.
pub(super) struct HttpRequest {
    pub(super) method: &'static str,
    pub(super) url: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: RequestBody,
}

/// A request on its way.
pub(super) struct HubExchange {
    pieces: Receiver<ExchangeMessage>,
    /// Bytes of the request's body that were sent.
    sent: Arc<AtomicU64>,
    stop: StopFlag,
    patience: Duration,
}

impl HubExchange {
    /// Sends a request.
    pub(super) fn start(
        agent: &ureq::Agent,
        request: HttpRequest,
        stop: &StopFlag,
        patience: Duration,
    ) -> std::io::Result<Self> {
        let (sender, pieces) = sync_channel(WAITING);
        let sent = Arc::new(AtomicU64::new(0));
        let body = CountedBody::open(request.body, Arc::clone(&sent), stop.clone())?;
        let agent = agent.clone();
        let head = (request.method, request.url, request.headers);
        thread::Builder::new().name("hub".to_owned()).spawn(move || make(&agent, head, body, &sender))?;
        Ok(Self { pieces, sent, stop: stop.clone(), patience })
    }

    /// Waits for status and headers.
    pub(super) fn head(&self) -> Result<ResponseHead, Interruption> {
        match self.next()? {
            ExchangeMessage::Head(head) => Ok(head),
            _ => Err(Interruption::Broken("the answer has no head".to_owned())),
        }
    }

    /// Waits for the next bytes of the body; `None` at its end.
    pub(super) fn bytes(&self) -> Result<Option<Vec<u8>>, Interruption> {
        match self.next()? {
            ExchangeMessage::Bytes(bytes) => Ok(Some(bytes)),
            _ => Ok(None),
        }
    }

    fn next(&self) -> Result<ExchangeMessage, Interruption> {
        let (mut started, mut sent) = (Instant::now(), 0);
        loop {
            // What is sent is a sign of life as well.
            let now = self.sent.load(Ordering::Relaxed);
            if now != sent {
                (started, sent) = (Instant::now(), now);
            }
            if self.stop.requested().is_some() {
                return Err(Interruption::Stop);
            }
            match self.pieces.recv_timeout(TICK) {
                Ok(ExchangeMessage::Failed(interruption)) => return Err(interruption),
                Ok(piece) => return Ok(piece),
                Err(RecvTimeoutError::Timeout) if started.elapsed() < self.patience => {}
                Err(RecvTimeoutError::Timeout) => {
                    let problem = format!("nothing came for {} s", self.patience.as_secs());
                    return Err(Interruption::Broken(problem));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Interruption::Broken("the connection was lost".to_owned()));
                }
            }
        }
    }
}

/// The thread's work. It ends, and with it the connection, at the first message that the caller no longer receives.
fn make(
    agent: &ureq::Agent,
    (method, url, headers): (&'static str, String, Vec<(&'static str, String)>),
    body: Option<CountedBody>,
    caller: &SyncSender<ExchangeMessage>,
) {
    let mut request = ureq::http::Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let sent = match body {
        None => request.body(()).map_err(ureq::Error::from).and_then(|request| agent.run(request)),
        Some(body) => request
            .header("content-length", body.length().to_string())
            .body(ureq::SendBody::from_owned_reader(body))
            .map_err(ureq::Error::from)
            .and_then(|request| agent.run(request)),
    };
    let response = match sent {
        Ok(response) => response,
        Err(error) => {
            let _ = caller.send(ExchangeMessage::Failed(interruption_of(&error)));
            return;
        }
    };
    let mut head = ResponseHead { status: response.status().as_u16(), ..ResponseHead::default() };
    for name in HEADERS {
        if let Some(value) = response.headers().get(name) {
            head.headers.insert(name, String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
    }
    if caller.send(ExchangeMessage::Head(head)).is_err() {
        return;
    }
    let mut body = response.into_body().into_reader();
    loop {
        let mut buffer = vec![0; PIECE];
        let piece = match body.read(&mut buffer) {
            Ok(0) => ExchangeMessage::End,
            Ok(read) => {
                buffer.truncate(read);
                ExchangeMessage::Bytes(buffer)
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => ExchangeMessage::Failed(Interruption::Broken(problem_of(&error))),
        };
        let last = !matches!(piece, ExchangeMessage::Bytes(_));
        if caller.send(piece).is_err() || last {
            return;
        }
    }
}

/// An error without the address, which may hold a signature or a password.
fn interruption_of(error: &ureq::Error) -> Interruption {
    use ureq::Error;
    Interruption::Broken(match error {
        Error::Io(error) => problem_of(error),
        Error::HostNotFound => "no such host".to_owned(),
        Error::Timeout(_) => "no answer in time".to_owned(),
        Error::Protocol(error) => format!("not HTTP: {error}"),
        Error::LargeResponseHeader(..) => "headers too large".to_owned(),
        Error::ConnectProxyFailed(_) | Error::InvalidProxyUrl => "the proxy refuses".to_owned(),
        Error::Rustls(error) => return Interruption::Untrusted(format!("TLS: {error}")),
        Error::Tls(problem) => return Interruption::Untrusted(format!("TLS: {problem}")),
        _ => "the connection failed".to_owned(),
    })
}

fn problem_of(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        std::io::ErrorKind::UnexpectedEof => "the connection ended early".to_owned(),
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => "no answer in time".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        let head = |text: &str| ResponseHead {
            status: 206,
            headers: BTreeMap::from([("content-range", text.to_owned())]),
        };
        assert_eq!(head("bytes 5-9/10").content_range(), Some((5, Some(10))));
        assert_eq!(head("bytes 0-0/*").content_range(), Some((0, None)));
        assert_eq!(head("bytes */10").content_range(), None);
        assert_eq!(head("lines 0-1/2").content_range(), None);
    }
}
