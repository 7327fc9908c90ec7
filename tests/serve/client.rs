//! A server under test, and a client that speaks HTTP by hand, so that it can also speak it badly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use selfplay_testing::World;
use serde_json::{Value, json};

/// A running `selfplay serve`; killed where it is dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    _stdout: BufReader<ChildStdout>,
}

/// A server's reply.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The values of a stream's events, `[DONE]` left out.
    pub fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        data.filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap()).collect()
    }
}

impl Server {
    /// Starts a server of what `arguments` name, on a free port.
    pub fn start(world: &World, arguments: &[&str]) -> Self {
        let line = [&["serve", "--port", "0", "--quiet"], arguments].concat();
        let mut child = world.command(&line).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        stdout.read_line(&mut address).unwrap();
        let address = address.trim().trim_start_matches("http://").parse();
        Self { child, address: address.expect("the server says where it listens"), _stdout: stdout }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream
    }

    /// Sends bytes and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.connect();
        // A server that refuses early closes before all is sent.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub fn get(&self, path: &str) -> Reply {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        parse(&self.raw(request.as_bytes()))
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.post_with(path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        parse(&self.raw(&request(path, headers, body)))
    }

    /// A completion of tokens drawn by a seed.
    pub fn complete(&self, fields: Value) -> Reply {
        let mut body = json!({"prompt": "a b c", "max_tokens": 8, "seed": 7, "return_token_ids": true});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.post("/v1/completions", &body)
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").body;
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a number of `/metrics` is as wanted.
    pub fn await_metric(&self, name: &str, wanted: u64) {
        let until = Instant::now() + Duration::from_secs(20);
        while self.metric(name) != wanted {
            assert!(Instant::now() < until, "{name} is {}, not {wanted}", self.metric(name));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends a signal; the exit status.
    pub fn end(mut self, signal: i32) -> i32 {
        self.signal(signal);
        self.child.wait().unwrap().code().expect("an exit status")
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is our child and not waited for yet.
        unsafe { libc::kill(self.child.id() as i32, signal) };
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that closes its connection.
pub fn request(path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    [text.as_bytes(), body].concat()
}

/// A reply; status 0 where there is none.
pub fn parse(bytes: &[u8]) -> Reply {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Reply { status: 0, body: text } };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Reply { status, body: if chunked { dechunked(body) } else { body.to_owned() } }
}

fn dechunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        if size == 0 {
            break;
        }
        text.push_str(&rest[..size]);
        body = rest[size..].trim_start_matches("\r\n");
    }
    text
}
