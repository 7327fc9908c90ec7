//! An HTTP server on loopback that answers JSON as a test tells it: late, cut, with any status, in any order.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// What was asked.
#[derive(Clone, Debug)]
pub struct StubRequest {
    /// `POST` or `GET`.
    pub method: String,
    /// The path, as in `/v1/chat/completions`.
    pub path: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The body; null where there is none, or no JSON.
    pub body: Value,
    /// The body as it came.
    pub bytes: Vec<u8>,
    /// Its place among requests of the same path and body, from 1.
    pub time: usize,
}

/// What is answered.
#[derive(Clone, Debug)]
pub struct StubReply {
    /// HTTP's status.
    pub status: u16,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Passes before anything is sent.
    pub delay: Duration,
    /// Bytes of the body after which the connection is closed, although the whole length was announced.
    pub cut: Option<usize>,
    /// Whether the connection is closed in the place of an answer.
    pub hangs_up: bool,
}

impl StubReply {
    /// 200 with JSON.
    pub fn json(body: &Value) -> Self {
        Self::text(200, body.to_string())
    }

    /// Any status with any text.
    pub fn text(status: u16, body: impl Into<String>) -> Self {
        let body = body.into().into_bytes();
        Self { status, headers: Vec::new(), body, delay: Duration::ZERO, cut: None, hangs_up: false }
    }

    /// No answer: the connection is closed once the request has come.
    pub fn hang_up() -> Self {
        Self { hangs_up: true, ..Self::text(500, "") }
    }

    /// The same, later.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, cut off after `bytes` of the body.
    #[must_use]
    pub fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

type Handler = dyn Fn(&StubRequest) -> StubReply + Send + Sync;

/// The server. It ends with the process: a test is over in seconds.
pub struct StubServer {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    shared: Arc<StubState>,
}

struct StubState {
    handler: Box<Handler>,
    requests: Mutex<Vec<StubRequest>>,
    at_work: AtomicUsize,
    most_at_work: AtomicUsize,
}

impl StubServer {
    /// Starts a server that answers by `handler`.
    ///
    /// # Panics
    /// Where no port is to be had.
    pub fn start(handler: impl Fn(&StubRequest) -> StubReply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = format!("http://{}", listener.local_addr().expect("a bound port"));
        let shared = Arc::new(StubState {
            handler: Box::new(handler),
            requests: Mutex::default(),
            at_work: AtomicUsize::new(0),
            most_at_work: AtomicUsize::new(0),
        });
        let of_thread = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, shared }
    }

    /// Everything that was asked so far.
    ///
    /// # Panics
    /// After a panic of the server.
    pub fn requests(&self) -> Vec<StubRequest> {
        self.shared.requests.lock().expect("no panic of the server").clone()
    }

    /// Requests that were at work at the same time, at most.
    pub fn most_at_work(&self) -> usize {
        self.shared.most_at_work.load(Ordering::SeqCst)
    }
}

impl StubState {
    fn serve(&self, stream: TcpStream) {
        let Ok(copy) = stream.try_clone() else { return };
        let mut reader = BufReader::new(copy);
        let mut writer = stream;
        while let Some(request) = self.read(&mut reader) {
            let now = self.at_work.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_work.fetch_max(now, Ordering::SeqCst);
            let reply = (self.handler)(&request);
            thread::sleep(reply.delay);
            self.at_work.fetch_sub(1, Ordering::SeqCst);
            if reply.hangs_up {
                return;
            }
            let mut text = format!("HTTP/1.1 {} x\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
            for (name, value) in &reply.headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
            let sent = reply.cut.unwrap_or(reply.body.len()).min(reply.body.len());
            let written =
                writer.write_all(text.as_bytes()).and_then(|()| writer.write_all(&reply.body[..sent]));
            if written.is_err() || reply.cut.is_some() {
                return;
            }
        }
    }

    fn read(&self, reader: &mut impl BufRead) -> Option<StubRequest> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ');
        let method = words.next()?.to_owned();
        let path = words.next()?.to_owned();
        let (mut authorization, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => authorization = Some(value.to_owned()),
                "content-length" => length = value.parse().ok()?,
                _ => {}
            }
        }
        let mut bytes = vec![0; length];
        reader.read_exact(&mut bytes).ok()?;
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut requests = self.requests.lock().ok()?;
        let same = |other: &&StubRequest| other.path == path && other.bytes == bytes;
        let time = 1 + requests.iter().filter(same).count();
        let request = StubRequest { method, path, authorization, body, bytes, time };
        requests.push(request.clone());
        Some(request)
    }
}
