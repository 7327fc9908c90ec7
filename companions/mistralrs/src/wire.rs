//! Lines out: the protocol has standard output to itself.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::FromRawFd;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::arguments::Arguments;
use crate::request::UnreadableRequest;

/// The protocol that is spoken.
const PROTOCOL: u64 = 1;

/// Where lines go.
pub struct Wire(Mutex<File>);

impl Wire {
    /// Takes standard output; what anyone else prints there goes to standard error from now on.
    ///
    /// # Errors
    /// The operating system's.
    pub fn take_stdout() -> io::Result<Self> {
        io::stdout().flush()?;
        // SAFETY: two system calls on descriptors that are open; the new one is nobody else's.
        let own = unsafe { libc::dup(libc::STDOUT_FILENO) };
        if own < 0 || unsafe { libc::dup2(libc::STDERR_FILENO, libc::STDOUT_FILENO) } < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `own` was made above and is owned here alone.
        Ok(Self(Mutex::new(unsafe { File::from_raw_fd(own) })))
    }

    /// The model is loaded.
    pub fn ready(&self, arguments: &Arguments) {
        self.line(&json!({"ready": {
            "protocol": PROTOCOL,
            "program": concat!("selfplay-mistralrs ", env!("CARGO_PKG_VERSION"), " (mistralrs-core 0.8.1)"),
            "model": arguments.model,
            "max_seqs": arguments.max_seqs,
            "gives": ["token_ids", "logprobs", "top_logprobs", "seed"],
        }}));
    }

    /// How many tokens a request has so far.
    pub fn progress(&self, id: u64, tokens: usize) {
        self.line(&json!({"id": id, "progress": {"completion_tokens": tokens}}));
    }

    /// An answer.
    pub fn answer(&self, id: u64, answer: &Value) {
        self.line(&json!({"id": id, "answer": answer}));
    }

    /// Why a request has no answer.
    pub fn refuse(&self, id: u64, message: &str, is_temporary: bool) {
        self.line(&json!({"id": id, "error": {"message": message, "temporary": is_temporary}}));
    }

    /// A line that is no request: under its number, where it has one.
    pub fn refuse_line(&self, unreadable: &UnreadableRequest) {
        match unreadable.id {
            Some(id) => self.refuse(id, &unreadable.problem, false),
            None => self.fail(&unreadable.problem),
        }
    }

    /// Why nothing can be answered.
    pub fn fail(&self, message: &str) {
        self.line(&json!({"error": {"message": message}}));
    }

    fn line(&self, value: &Value) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // JSON has no line ends of its own. Whoever started this program has gone where the pipe is broken: its input ends as well.
        let _ = file.write_all(format!("{value}\n").as_bytes()).and_then(|()| file.flush());
    }
}
