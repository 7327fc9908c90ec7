//! What was answered, kept: a log of whole lines, one for each answer, under a hash of its request.
//!
//! `{"key": "…", "path": "chat/completions", "number": 0, "request": {…}, "answer": {…}}`
//!
//! Answers that are computed here stand without `number` and `request` ([`Transcript::put`]).
//!
//! A line is on the disk before its answer counts. A line that a killed process left torn is removed by the next open; that request is
//! asked again. The key is of the path, the body with its fields sorted, and the request's number; endpoints are not in it, so that the
//! same servers under other addresses replay too. Where a key stands twice, the later line counts; one whose answer is null takes
//! the answer before it back.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use selfplay_records::atomic::AppendLog;
use selfplay_records::{Kind, WriteError, open_regular};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{ClientError, JsonRequest};

/// SHA-256 of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey([u8; 32]);

impl RequestKey {
    pub(crate) fn of(request: &JsonRequest) -> Self {
        let mut text = String::new();
        canonical(&request.body, &mut text);
        let mut hasher = Sha256::new();
        hasher.update(request.path.as_bytes());
        hasher.update([0]);
        hasher.update(request.number.to_le_bytes());
        hasher.update(text.as_bytes());
        Self(hasher.finalize().into())
    }

    /// A number of this request, for the jitter of its pauses.
    pub(crate) fn number(&self) -> u64 {
        self.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// `value` with the fields of its objects in the order of their names.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            out.push('{');
            for name in names {
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                canonical(&fields[name], out);
                out.push(',');
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for item in items {
                canonical(item, out);
                out.push(',');
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

const WANTED: &str = "expected an answer of a transcript with \"key\" and \"answer\"";
/// How every line begins.
const LINE_START: &[u8] = b"{\"key\"";

/// The key of a whole line, and whether it takes an answer back.
fn entry(line: &[u8]) -> Option<(RequestKey, bool)> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let is_taken_back = line.get("answer")?.is_null();
    Some((RequestKey::from_hex(line["key"].as_str()?)?, is_taken_back))
}

/// That a file which is there begins as a transcript: with a line of one, whole or torn by a kill.
fn refuse_other(path: &Path) -> Result<(), ClientError> {
    let wrong =
        |problem: String, kind| Err(ClientError::Transcript { path: path.to_path_buf(), problem, kind });
    let mut first = Vec::new();
    let read = open_regular(path).and_then(|file| BufReader::new(file).read_until(b'\n', &mut first));
    match read {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return wrong(format!("cannot be read: {source}"), Kind::of_named_path(&source)),
        Ok(_) => {}
    }
    let is_ours = match first.ends_with(b"\n") {
        true => entry(&first).is_some(),
        false => first.iter().zip(LINE_START).all(|(found, wanted)| found == wanted),
    };
    match is_ours {
        true => Ok(()),
        false => wrong(
            format!(
                "row 0: {WANTED}; name a file that is not there yet, or the transcript of an earlier command"
            ),
            Kind::Input,
        ),
    }
}

/// Where a line stands in the file.
#[derive(Clone, Copy, Debug)]
struct TranscriptLine {
    start: u64,
    length: usize,
}

/// The log of a service's answers. One process at a time may have it open, which the lock of the output that it belongs to sees to.
#[derive(Debug)]
pub struct Transcript {
    path: PathBuf,
    log: AppendLog,
    reader: File,
    lines: HashMap<RequestKey, TranscriptLine>,
    /// Bytes of the file.
    length: u64,
}

impl Transcript {
    /// Opens the log at `path`, made where it is absent.
    ///
    /// # Errors
    /// The file system's, and a whole line that is none of a transcript: the file is another one, or damaged.
    pub fn open(path: &Path) -> Result<Self, ClientError> {
        // A log's torn last line is removed when it is opened: another's file would lose its own.
        refuse_other(path)?;
        let log = AppendLog::open(path)?;
        let failed = |source| ClientError::from(WriteError::at(path, "read")(source));
        let reader = File::open(path).map_err(failed)?;
        let mut transcript = Self { path: path.to_path_buf(), log, reader, lines: HashMap::new(), length: 0 };
        let mut lines = BufReader::new(File::open(path).map_err(failed)?);
        let mut text = Vec::new();
        for row in 0.. {
            text.clear();
            if lines.read_until(b'\n', &mut text).map_err(failed)? == 0 {
                break;
            }
            let Some((key, is_taken_back)) = entry(&text) else {
                let problem = format!("row {row}: {WANTED}; remove the line, and its request is asked again");
                return Err(transcript.wrong(problem, Kind::Input));
            };
            transcript.note(key, text.len());
            if is_taken_back {
                transcript.lines.remove(&key);
            }
        }
        Ok(transcript)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Requests with an answer.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether nothing was answered yet.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The answer that was kept for a request, if it is there.
    ///
    /// # Errors
    /// A file that changed while it was in use.
    pub fn find(&self, request: &JsonRequest) -> Result<Option<Value>, ClientError> {
        self.answer(&RequestKey::of(request))
    }

    /// Keeps an answer that was computed here: without the request's text, and without waiting for the disk. It outlives this
    /// process, however that ends; where the machine goes down, the last ones may have to be computed again.
    ///
    /// # Errors
    /// The file system's.
    pub fn put(&mut self, request: &JsonRequest, answer: &Value) -> Result<(), ClientError> {
        let key = RequestKey::of(request);
        let line = json!({ "key": key.hex(), "path": request.path, "answer": answer }).to_string();
        self.log.append_line(&line)?;
        self.note(key, line.len() + 1);
        Ok(())
    }

    /// The answer to a request, if it is there.
    pub(crate) fn answer(&self, key: &RequestKey) -> Result<Option<Value>, ClientError> {
        let Some(line) = self.lines.get(key) else { return Ok(None) };
        let mut text = vec![0; line.length];
        let read = self.reader.read_exact_at(&mut text, line.start).and_then(|()| {
            let mut found: Value = serde_json::from_slice(&text)?;
            Ok(found["answer"].take())
        });
        read.map(Some)
            .map_err(|error| self.wrong(format!("changed while it was in use: {error}"), Kind::Machine))
    }

    /// Keeps an answer; returns when it is on the disk.
    pub(crate) fn keep(
        &mut self,
        key: RequestKey,
        request: &JsonRequest,
        answer: &Value,
    ) -> Result<(), ClientError> {
        let line = json!({
            "key": key.hex(),
            "path": request.path,
            "number": request.number,
            "request": request.body,
            "answer": answer,
        })
        .to_string();
        self.log.append_line(&line)?;
        self.log.sync()?;
        self.note(key, line.len() + 1);
        Ok(())
    }

    /// Takes an answer back: its request has none from now on.
    pub(crate) fn take_back(&mut self, key: &RequestKey) -> Result<(), ClientError> {
        let line = json!({"key": key.hex(), "answer": null}).to_string();
        self.log.append_line(&line)?;
        self.log.sync()?;
        self.length += line.len() as u64 + 1;
        self.lines.remove(key);
        Ok(())
    }

    fn note(&mut self, key: RequestKey, length: usize) {
        self.lines.insert(key, TranscriptLine { start: self.length, length });
        self.length += length as u64;
    }

    fn wrong(&self, problem: String, kind: Kind) -> ClientError {
        ClientError::Transcript { path: self.path.clone(), problem, kind }
    }
}

#[cfg(test)]
mod tests;
