//! A page that follows a run in work: a small HTTP server that gives the page anew, and tells by server-sent events when that is worth it.
//!
//! ```text
//! GET /         the page, made at that moment
//! GET /events   text/event-stream: an event `change` when a file of a run has changed
//! ```
//!
//! It reads runs and writes nothing. A request whose `Host` is not an address of this machine's loopback, or the one that it was told to
//! listen at, is refused: a page elsewhere cannot read runs through a name that leads here. Source:
//! <https://html.spec.whatwg.org/multipage/server-sent-events.html>.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use selfplay_records::ExampleKind;

use super::{ReportedFolder, gather, render};
use crate::error::EngineError;
use crate::run::dir::RunDir;

/// Between two looks at the files.
const PAUSE: Duration = Duration::from_secs(1);
/// Looks after which something is sent although nothing has changed, so that a connection that is gone is seen.
const LOOKS_BETWEEN_SIGNS: usize = 15;
/// Bytes of a request's head at most.
const MOST_HEAD: u64 = 16 * 1024;
/// Connections at a time at most.
const MOST_AT_A_TIME: usize = 64;
/// For a request to come, for an answer to go.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A server that listens.
pub(crate) struct PageServer {
    listener: TcpListener,
    site: Arc<ServedFolders>,
}

struct ServedFolders {
    folders: Vec<ReportedFolder>,
    host: String,
    at_work: AtomicUsize,
}

impl PageServer {
    /// Listens at `host` and `port`; 0 takes a free port.
    ///
    /// # Errors
    /// An address that cannot be listened at.
    pub(crate) fn bind(folders: Vec<ReportedFolder>, host: &str, port: u16) -> Result<Self, EngineError> {
        let listener = TcpListener::bind((host, port)).map_err(|error| {
            EngineError::input(format!("--host {host} --port {port}: {error}; name another address or port"))
        })?;
        let site = ServedFolders { folders, host: host.to_owned(), at_work: AtomicUsize::new(0) };
        Ok(Self { listener, site: Arc::new(site) })
    }

    /// Where the page is.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn address(&self) -> Result<String, EngineError> {
        let port = self
            .listener
            .local_addr()
            .map_err(|error| EngineError::failure(format!("the port that is listened at: {error}")))?
            .port();
        let host = &self.site.host;
        Ok(if host.contains(':') {
            format!("http://[{host}]:{port}/")
        } else {
            format!("http://{host}:{port}/")
        })
    }

    /// Answers until the process ends.
    pub(crate) fn serve(&self) {
        for stream in self.listener.incoming().flatten() {
            let site = Arc::clone(&self.site);
            if site.at_work.fetch_add(1, Ordering::SeqCst) >= MOST_AT_A_TIME {
                site.at_work.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let work = move || {
                // A browser that goes away is no error of ours.
                let _ = site.answer(stream);
                site.at_work.fetch_sub(1, Ordering::SeqCst);
            };
            if thread::Builder::new().name("report".to_owned()).spawn(work).is_err() {
                self.site.at_work.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}

/// What is asked for.
struct PageRequest {
    method: String,
    path: String,
    host: String,
}

impl ServedFolders {
    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let Some(asked) = read_head(&stream)? else {
            return send(&mut stream, "400 Bad Request", "a request of HTTP/1.1 is wanted\n");
        };
        if !self.is_own_host(&asked.host) {
            return send(&mut stream, "403 Forbidden", "this server answers to its own address only\n");
        }
        if asked.method != "GET" && asked.method != "HEAD" {
            return send(&mut stream, "405 Method Not Allowed", "GET is wanted\n");
        }
        match asked.path.split('?').next().unwrap_or_default() {
            "/" => match gather(&self.folders) {
                Ok(page) => send_page(&mut stream, &render(&page, true), asked.method == "HEAD"),
                Err(error) => send(&mut stream, "500 Internal Server Error", &format!("{error}\n")),
            },
            "/events" => self.events(&mut stream),
            _ => send(&mut stream, "404 Not Found", "the page is at /\n"),
        }
    }

    fn is_own_host(&self, host: &str) -> bool {
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        // Who listens at every address has said that others may ask.
        let is_open = matches!(self.host.as_str(), "0.0.0.0" | "::");
        is_open || name == self.host || matches!(name, "localhost" | "127.0.0.1" | "::1")
    }

    fn events(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
                    X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\nretry: 2000\n\n";
        stream.write_all(head.as_bytes())?;
        let mut known = self.state();
        let mut looks = 0;
        loop {
            thread::sleep(PAUSE);
            let now = self.state();
            if now != known {
                known = now;
                stream.write_all(b"event: change\ndata: {}\n\n")?;
            } else if looks % LOOKS_BETWEEN_SIGNS == 0 {
                stream.write_all(b": still here\n\n")?;
            }
            looks += 1;
        }
    }

    /// Lengths and times of the files that a page is made from.
    fn state(&self) -> Vec<(PathBuf, u64, Option<SystemTime>)> {
        let mut files = Vec::new();
        for one in &self.folders {
            let run = RunDir::new(&one.folder);
            let mut parts = one.folder.as_os_str().to_owned();
            parts.push(".parts");
            let mut paths = vec![
                run.manifest_file(),
                run.events_file(),
                one.folder.join("metrics.jsonl"),
                Path::new(&parts).join("metrics.jsonl"),
            ];
            for number in 1.. {
                let dir = run.iteration(number);
                if !dir.root().is_dir() {
                    break;
                }
                paths.extend([dir.train().join("metrics.jsonl"), dir.summary_file()]);
                paths.extend(ExampleKind::ALL.map(|kind| dir.rows_file(kind)));
                paths.extend([dir.evaluation().result_file(), dir.candidates(), dir.preferences()]);
            }
            for path in paths {
                if let Ok(found) = path.metadata() {
                    files.push((path, found.len(), found.modified().ok()));
                }
            }
        }
        files
    }
}

/// The first line and the host of a request; `None` of what is no request.
fn read_head(stream: &TcpStream) -> std::io::Result<Option<PageRequest>> {
    let mut reader = BufReader::new(stream.take(MOST_HEAD));
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    if !version.starts_with("HTTP/1.") {
        return Ok(None);
    }
    let (method, path) = (method.to_owned(), path.to_owned());
    let mut host = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(PageRequest { method, path, host }));
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("host")
        {
            host = value.trim().to_owned();
        }
    }
}

fn send_page(stream: &mut TcpStream, page: &str, is_head: bool) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
         X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nX-Frame-Options: DENY\r\nConnection: close\r\n\r\n",
        page.len()
    );
    stream.write_all(head.as_bytes())?;
    if is_head { Ok(()) } else { stream.write_all(page.as_bytes()) }
}

fn send(stream: &mut TcpStream, status: &str, text: &str) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(text.as_bytes())
}
