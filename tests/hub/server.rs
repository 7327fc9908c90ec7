//! A hub on loopback: serves files of memory as any `ORG/NAME`, and misbehaves as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;
use sha2::{Digest, Sha256};

/// What a request asked for.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    /// Its place among the requests for this path, from 1.
    pub time: usize,
    pub authorization: Option<String>,
    pub range: Option<String>,
    /// Whether it was below `/mirror`, as a mirror's address may be.
    pub mirrored: bool,
}

impl Request {
    /// Whether it is for the listing.
    pub fn lists(&self) -> bool {
        self.path.starts_with("/api/")
    }

    /// Whether it is for the content of a file, not only for its first byte.
    pub fn fetches(&self, name: &str) -> bool {
        self.path.ends_with(name) && !self.lists() && self.range.as_deref() != Some("bytes=0-0")
    }
}

/// An answer to be sent.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection is closed.
    pub cut: Option<usize>,
    /// After what is sent the connection stays open without another byte.
    pub stalls: bool,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

type Change = dyn Fn(&Request, Reply) -> Reply + Send + Sync;

/// The files of the hub and everything that was asked of it.
pub struct Hub {
    pub endpoint: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    commit: Mutex<String>,
    requests: Mutex<Vec<Request>>,
    change: Box<Change>,
}

impl Hub {
    /// Serves `files` at commit `aaa…`.
    pub fn new(files: BTreeMap<String, Vec<u8>>) -> Self {
        Self::with(files, |_, reply| reply)
    }

    /// Serves `files`, and `change` may make another answer of each right one.
    pub fn with(
        files: BTreeMap<String, Vec<u8>>,
        change: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            files: Mutex::new(files),
            commit: Mutex::new("a".repeat(40)),
            requests: Mutex::default(),
            change: Box::new(change),
        });
        let of_thread = Arc::clone(&shared);
        // Ends with the process: a test is over in seconds.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&of_thread);
                thread::spawn(move || shared.serve(stream));
            }
        });
        Self { endpoint, shared }
    }

    /// Moves the branch on to a commit of other files.
    pub fn move_to(&self, commit: char, files: BTreeMap<String, Vec<u8>>) {
        *self.shared.commit.lock().unwrap() = commit.to_string().repeat(40);
        *self.shared.files.lock().unwrap() = files;
    }

    /// Everything that was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut writer = stream;
        while let Some(request) = self.read(&mut reader) {
            let reply = (self.change)(&request, self.answer(&request));
            let length = reply.body.len();
            let mut text = format!("HTTP/1.1 {} x\r\n", reply.status);
            for (name, value) in &reply.headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            // Whoever cuts a body may announce it whole or, with the end of the connection as its end, not at all.
            if reply.cut.is_none() {
                text.push_str(&format!("Content-Length: {length}\r\n"));
            } else {
                text.push_str("Connection: close\r\n");
            }
            text.push_str("\r\n");
            let sent = reply.cut.unwrap_or(length).min(length);
            let written =
                writer.write_all(text.as_bytes()).and_then(|()| writer.write_all(&reply.body[..sent]));
            if reply.stalls {
                thread::sleep(std::time::Duration::from_secs(120));
            }
            if written.is_err() || reply.cut.is_some() {
                return;
            }
        }
    }

    fn read(&self, reader: &mut impl BufRead) -> Option<Request> {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let path = line.split(' ').nth(1)?.split('?').next()?.to_owned();
        let mirrored = path.starts_with("/mirror/");
        let path = path.strip_prefix("/mirror").unwrap_or(&path).to_owned();
        let mut request = Request { path, time: 1, authorization: None, range: None, mirrored };
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "authorization" => request.authorization = Some(value.to_owned()),
                "range" => request.range = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut requests = self.requests.lock().unwrap();
        request.time += requests.iter().filter(|other| other.path == request.path).count();
        requests.push(request.clone());
        Some(request)
    }

    /// What a hub that works answers.
    fn answer(&self, request: &Request) -> Reply {
        let files = self.files.lock().unwrap();
        let commit = self.commit.lock().unwrap().clone();
        if request.lists() {
            let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
            let body = json!({"sha": commit, "siblings": siblings}).to_string().into_bytes();
            return Reply { status: 200, body, ..Reply::default() };
        }
        let name = match request.path.split_once("/resolve/") {
            Some((_, rest)) => rest.split_once('/').map_or("", |(_, name)| name),
            None => request.path.trim_start_matches("/cdn/"),
        };
        let Some(data) = files.get(name) else { return Reply::status(404) };
        let (status, start, end) =
            match request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")) {
                None => (200, 0, data.len()),
                Some(range) => {
                    let (start, end) = range.split_once('-').unwrap();
                    let start: usize = start.parse().unwrap();
                    let end = end.parse().map_or(data.len(), |end: usize| data.len().min(end + 1));
                    (206, start, end)
                }
            };
        if request.range.is_some() && start >= data.len() {
            return Reply::status(416).header("Content-Range", format!("bytes */{}", data.len()));
        }
        Reply { status, body: data[start..end].to_vec(), ..Reply::default() }
            .header("X-Repo-Commit", commit)
            .header("ETag", format!("\"{}\"", sha256(data)))
            .header("Content-Range", format!("bytes {start}-{}/{}", end.saturating_sub(1), data.len()))
    }
}

/// In hexadecimal.
pub fn sha256(data: &[u8]) -> String {
    Sha256::digest(data).iter().map(|byte| format!("{byte:02x}")).collect()
}
