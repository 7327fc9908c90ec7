//! The thread that a companion belongs to: starts it, sends requests, hands answers to whoever waits, and starts it anew when it must.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use selfplay_records::Kind;
use serde_json::Value;

use super::line::{CompanionLine, PROTOCOL};
use crate::ClientError;
use crate::exchange::RequestFailure;
use crate::program::{CommandFailure, Process, Reply, UserProgram};

/// How long an answer is waited for before new requests are looked for.
const TICK: Duration = Duration::from_millis(4);

/// A request, and where its answer goes.
#[derive(Debug)]
pub(super) struct CompanionOrder {
    pub(super) id: u64,
    pub(super) line: Vec<u8>,
    pub(super) answer: Sender<Result<Value, RequestFailure>>,
}

/// A companion's thread.
pub(super) struct Keeper {
    program: UserProgram,
    patience: Duration,
    running: Option<RunningCompanion>,
    /// What is asked and not answered.
    asked: BTreeMap<u64, Sender<Result<Value, RequestFailure>>>,
}

/// A companion that was started.
struct RunningCompanion {
    process: Process,
    is_ready: bool,
    /// When it was started, asked after a silence, or last wrote a line.
    last_sign: Instant,
}

impl Keeper {
    pub(super) fn new(program: UserProgram, patience: Duration) -> Self {
        Self { program, patience, running: None, asked: BTreeMap::new() }
    }

    /// Until the orders end.
    pub(super) fn work(mut self, orders: &Receiver<CompanionOrder>) {
        loop {
            if self.asked.is_empty() {
                match orders.recv() {
                    Ok(order) => self.ask(order),
                    Err(_) => break,
                }
                continue;
            }
            match orders.try_recv() {
                Ok(order) => self.ask(order),
                Err(TryRecvError::Empty) => self.hear(),
                Err(TryRecvError::Disconnected) => break,
            }
        }
        // Whoever still waits learns from the end of its channel.
        self.asked.clear();
        if let Some(running) = &mut self.running {
            running.process.take_leave();
        }
    }

    fn ask(&mut self, order: CompanionOrder) {
        if self.asked.is_empty() && self.running.as_ref().is_some_and(|running| running.process.has_ended()) {
            self.running = None;
        }
        let mut running = match self.running.take() {
            Some(running) => running,
            None => match Process::start(&self.program) {
                Ok(process) => RunningCompanion { process, is_ready: false, last_sign: Instant::now() },
                Err(failure) => {
                    let _ = order.answer.send(Err(final_failure(failure)));
                    return;
                }
            },
        };
        if self.asked.is_empty() {
            running.last_sign = Instant::now();
        }
        running.process.send(order.line);
        self.asked.insert(order.id, order.answer);
        self.running = Some(running);
    }

    /// Takes one line, if one comes soon.
    fn hear(&mut self) {
        let never = AtomicBool::new(false);
        let Some(running) = &mut self.running else {
            return self.fail_all(&RequestProblem::passing("is not started"));
        };
        match running.process.hear(TICK, &never) {
            Reply::Answer(line) => {
                running.last_sign = Instant::now();
                self.take(&line);
            }
            Reply::Silent | Reply::CalledOff => {
                if running.last_sign.elapsed() <= self.patience {
                    return;
                }
                let seconds = self.patience.as_secs_f64();
                if running.is_ready {
                    self.restart(format!("no sign of life within {seconds} s (timeout_s bounds the wait)"));
                } else {
                    self.give_up(
                        Kind::Machine,
                        format!("is not ready after {seconds} s (timeout_s bounds the wait)"),
                    );
                }
            }
            Reply::Ended(what) if running.is_ready => self.restart(what),
            Reply::Ended(what) => self.give_up(Kind::Machine, format!("{what} before it was ready")),
            Reply::TooLong => self.restart("wrote a line of more than 16 MiB".to_owned()),
        }
    }

    fn take(&mut self, line: &[u8]) {
        match CompanionLine::read(line) {
            CompanionLine::Ready => {
                if let Some(running) = &mut self.running {
                    running.is_ready = true;
                }
            }
            CompanionLine::Progress => {}
            CompanionLine::Answer { id, answer } => self.reply(id, Ok(answer)),
            CompanionLine::Refusal { id, message, is_temporary: true } => {
                self.reply(id, Err(RequestFailure::passing(message)));
            }
            CompanionLine::Refusal { id, message, is_temporary: false } => {
                let failure = self.failure(Kind::Input, format!("refuses a request: {message}"));
                self.reply(id, Err(final_failure(failure)));
            }
            CompanionLine::OtherProtocol(protocol) => {
                let problem = format!(
                    "speaks protocol {protocol}, and {PROTOCOL} is wanted: build it from the same source"
                );
                self.give_up(Kind::Input, problem);
            }
            CompanionLine::Failure(message) => self.give_up(Kind::Input, message),
            CompanionLine::Malformed(line) => {
                self.restart(format!("wrote what is no line of a companion: {line}"))
            }
        }
    }

    /// An answer to a request that nobody waits for is one that was given before.
    fn reply(&mut self, id: u64, answer: Result<Value, RequestFailure>) {
        match self.asked.remove(&id) {
            Some(waiting) => drop(waiting.send(answer)),
            None => tracing::warn!("{}: answers request {id}, which is not open", self.program.key()),
        }
    }

    /// Ends it; what it was asked may be asked again, of a new one.
    fn restart(&mut self, problem: String) {
        let failure = self.failure(Kind::Machine, problem);
        tracing::warn!("{failure}; it is started anew");
        self.running = None;
        self.fail_all(&RequestProblem::passing(failure.of_program()));
    }

    /// Ends it; no new one would do better.
    fn give_up(&mut self, kind: Kind, problem: String) {
        let failure = self.failure(kind, problem);
        self.running = None;
        self.fail_all(&RequestProblem::Final(failure));
    }

    fn fail_all(&mut self, problem: &RequestProblem) {
        for (_, waiting) in std::mem::take(&mut self.asked) {
            let _ = waiting.send(Err(match problem {
                RequestProblem::Passing(problem) => RequestFailure::passing(problem.clone()),
                RequestProblem::Final(failure) => final_failure(failure.clone()),
            }));
        }
    }

    fn failure(&self, kind: Kind, problem: String) -> Box<CommandFailure> {
        let failure = *self.program.failure(None, problem);
        let last_words = self.running.as_ref().map(|running| running.process.last_words());
        Box::new(CommandFailure { kind, last_words: last_words.unwrap_or_default(), ..failure })
    }
}

/// Why nothing that was asked has an answer.
enum RequestProblem {
    Passing(String),
    Final(Box<CommandFailure>),
}

impl RequestProblem {
    fn passing(problem: impl Into<String>) -> Self {
        Self::Passing(problem.into())
    }
}

/// A failure that no other try changes.
fn final_failure(failure: Box<CommandFailure>) -> RequestFailure {
    RequestFailure::Final(ClientError::Companion(failure))
}
