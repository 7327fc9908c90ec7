//! A companion: a program of its own that runs models which selfplay cannot, started here and spoken to over pipes.
//!
//! It is given `--model MODEL` after its words, and answers the calls of OpenAI's interface, a line of JSON each way:
//!
//! ```text
//! →  {"id": 7, "path": "chat/completions", "body": {…}}
//! ←  {"ready": {"protocol": 1, …}}                                 once, when the model is loaded
//! ←  {"id": 7, "progress": {"completion_tokens": 12}}             a sign of life, as often as it likes
//! ←  {"id": 7, "answer": {"choices": […], "usage": {…}}}           in any order
//! ←  {"id": 7, "error": {"message": "…", "temporary": false}}      of this request alone
//! ←  {"error": {"message": "…"}}                                   before it is ready: why the model cannot be loaded
//! ```
//!
//! Paths are `models` (without a body), `completions` and `chat/completions`. A companion whose input ends leaves. One that dies, is silent
//! for too long while something is asked, or writes what is no such line is started anew, and what it had not answered is asked again; what it had
//! answered is in the transcript.

mod keeper;
mod line;
mod settings;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};

use self::keeper::{CompanionOrder, Keeper};
pub use self::settings::CompanionSettings;
use crate::ClientError;
use crate::exchange::RequestFailure;
use crate::lock::lock;
use crate::program::UserProgram;

/// A companion, started with the first request.
#[derive(Debug)]
pub(crate) struct Companion {
    name: String,
    next: AtomicU64,
    orders: Mutex<Option<Sender<CompanionOrder>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Companion {
    /// Nothing is started yet. `patience`: how long it may take to load, and be silent while something is asked.
    ///
    /// # Errors
    /// No thread.
    pub(crate) fn new(program: UserProgram, patience: Duration) -> Result<Self, ClientError> {
        let name = program.name().to_owned();
        let (orders, queue) = channel();
        let keeper = Keeper::new(program, patience);
        let thread = thread::Builder::new().name(format!("companion {name}"));
        // The kernel ends a process with the thread that started it: this one lives as long as the client.
        let thread = thread.spawn(move || keeper.work(&queue)).map_err(ClientError::Thread)?;
        Ok(Self {
            name,
            next: AtomicU64::new(1),
            orders: Mutex::new(Some(orders)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Asks, and waits for the answer.
    pub(crate) fn send(&self, path: &str, body: Option<&Value>) -> Result<Value, RequestFailure> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut line = json!({"id": id, "path": path});
        if let Some(body) = body {
            line["body"] = body.clone();
        }
        // JSON has no line ends of its own: those of texts are escaped.
        let line = format!("{line}\n").into_bytes();
        let (answer, answers) = channel();
        let orders = lock(&self.orders).clone();
        let gone = || RequestFailure::passing("the companion is being ended");
        let sent = orders.is_some_and(|orders| orders.send(CompanionOrder { id, line, answer }).is_ok());
        if !sent {
            return Err(gone());
        }
        answers.recv().unwrap_or_else(|_| Err(gone()))
    }

    /// Ends its input, and waits a little for it to leave.
    pub(crate) fn close(&self) {
        drop(lock(&self.orders).take());
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}
