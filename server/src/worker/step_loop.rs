//! The thread of a policy: takes commands between steps, steps while there is work, sleeps while there is none.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use selfplay_records::HasKind;
use selfplay_sampler::{Engine, NativeBackend, RequestEvent, RequestId, SampleError, SampledToken};
use tokio::sync::mpsc::UnboundedSender;

use super::handle::{PolicyHandle, PolicyShape, WorkerGauges};
use super::job::{JobEvent, NewJob, WorkerCommand};
use super::turns::DeviceTurn;
use crate::policy::ServedPolicy;

/// How long a policy keeps the memory of its cache without a request.
const KEEPS_PAGES: Duration = Duration::from_secs(60);

/// Starts the thread of a policy, which begins a step when it is its turn. It ends when the handle and all jobs are gone.
///
/// # Errors
/// The operating system's, where no thread is to be had.
pub(crate) fn start(policy: ServedPolicy, turn: DeviceTurn) -> io::Result<(PolicyHandle, JoinHandle<()>)> {
    let (commands, receiver) = channel();
    let gauges = Arc::new(WorkerGauges::default());
    let of_thread = gauges.clone();
    let architecture = policy.decoder.architecture();
    let shape = PolicyShape {
        name: policy.name.clone(),
        root: policy.root.clone(),
        codec: policy.codec.clone(),
        stop_ids: policy.stop_ids.clone(),
        vocab_size: architecture.vocab_size,
        context: architecture.max_positions,
    };
    let name = format!("serve {}", policy.name);
    let thread = thread::Builder::new().name(name).spawn(move || {
        let work = AssertUnwindSafe(|| run(policy, turn, &receiver, &of_thread));
        if catch_unwind(work).is_err() {
            // The panic's own message was printed. Its jobs' channels are closed, and their requests end with 500.
            of_thread.is_lost.store(true, Ordering::Relaxed);
        }
    })?;
    let (next, outstanding) = (AtomicU64::new(0), Arc::new(AtomicUsize::new(0)));
    Ok((PolicyHandle { shape, gauges, commands, next, outstanding }, thread))
}

fn run(policy: ServedPolicy, turn: DeviceTurn, commands: &Receiver<WorkerCommand>, gauges: &WorkerGauges) {
    answer(&policy, &turn, commands, gauges);
    // What a thread gives back while another one records a step would become a part of the recording.
    let _turn = turn.take();
    drop(policy);
}

/// Answers until nobody is left to ask.
fn answer(
    policy: &ServedPolicy,
    turn: &DeviceTurn,
    commands: &Receiver<WorkerCommand>,
    gauges: &WorkerGauges,
) {
    let backend = NativeBackend::new(&policy.decoder)
        .with_step(Some(policy.capacity.rows), Some(policy.capacity.token_budget));
    let codec: &selfplay_model::Codec = &policy.codec;
    let engine = Engine::new(Box::new(backend), codec, policy.capacity);
    let (jobs, requests) = (HashMap::new(), HashMap::new());
    let mut work = StepLoop { engine, turn: turn.clone(), jobs, requests, gauges };
    while work.take_commands(commands) {
        work.step();
    }
    // The cache goes back in a turn as well.
    let _turn = turn.take();
    drop(work);
}

/// A job that the engine works on.
struct OpenJob {
    number: u64,
    events: UnboundedSender<JobEvent>,
    streams: bool,
    left: usize,
}

struct StepLoop<'a> {
    engine: Engine<'a>,
    turn: DeviceTurn,
    jobs: HashMap<RequestId, OpenJob>,
    requests: HashMap<u64, RequestId>,
    gauges: &'a WorkerGauges,
}

impl StepLoop<'_> {
    /// Takes all commands that are there, and waits for one where there is nothing else to do. `false` when nobody is left to
    /// send any.
    fn take_commands(&mut self, commands: &Receiver<WorkerCommand>) -> bool {
        loop {
            let command = match commands.try_recv() {
                Err(TryRecvError::Empty) if self.engine.is_idle() => {
                    self.show();
                    match self.wait(commands) {
                        Some(command) => command,
                        None => return false,
                    }
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
                Ok(command) => command,
            };
            match command {
                WorkerCommand::Add(job) => self.add(*job),
                WorkerCommand::Abort(number) => {
                    if let Some(id) = self.requests.get(&number).copied() {
                        self.abort(id);
                    }
                }
            }
        }
    }

    /// The next command; `None` when nobody is left to send any. After a while without, others may have the cache's memory.
    fn wait(&mut self, commands: &Receiver<WorkerCommand>) -> Option<WorkerCommand> {
        match commands.recv_timeout(KEEPS_PAGES) {
            Ok(command) => return Some(command),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let turn = self.turn.take();
        let released = self.engine.release_pages();
        drop(turn);
        if let Err(error) = released {
            tracing::warn!("the memory of the cache is kept: {error}");
        }
        self.show();
        commands.recv().ok()
    }

    fn add(&mut self, job: NewJob) {
        let NewJob { number, request, streams, events } = job;
        let left = request.sampling.num_samples;
        match self.engine.add(request) {
            Ok(id) => {
                self.jobs.insert(id, OpenJob { number, events, streams, left });
                self.requests.insert(number, id);
            }
            Err(error) => {
                let _ = events.send(failed(&error));
            }
        }
    }

    fn abort(&mut self, id: RequestId) {
        self.engine.abort(id);
        self.forget(id);
    }

    fn forget(&mut self, id: RequestId) {
        if let Some(job) = self.jobs.remove(&id) {
            self.requests.remove(&job.number);
        }
    }

    fn step(&mut self) {
        let turn = self.turn.take();
        let stepped = self.engine.step();
        drop(turn);
        match stepped {
            Ok(events) => events.into_iter().for_each(|event| self.hand_on(event)),
            Err(error) => {
                tracing::error!("a step failed, and all its requests with it: {error}");
                self.engine.clear();
                self.requests.clear();
                for (_, job) in self.jobs.drain() {
                    let _ = job.events.send(failed(&error));
                }
            }
        }
        self.show();
    }

    /// An event goes to its job; a job whose receiver is gone is aborted.
    fn hand_on(&mut self, event: RequestEvent) {
        let (id, event) = match event {
            RequestEvent::Prompt { request, tokens } => (request, JobEvent::Prompt(tokens)),
            RequestEvent::Token { request, sample, id, logprob, top } => {
                if !self.jobs.get(&request).is_some_and(|job| job.streams) {
                    return;
                }
                (request, JobEvent::Token { sample, token: SampledToken { id, logprob }, top })
            }
            RequestEvent::Finished { request, sample } => (request, JobEvent::Finished(sample)),
            RequestEvent::Failed { request, error } => (request, failed(&error)),
        };
        let Some(job) = self.jobs.get_mut(&id) else { return };
        match &event {
            JobEvent::Finished(_) => job.left -= 1,
            JobEvent::Failed { .. } => job.left = 0,
            _ => {}
        }
        let is_over = job.left == 0;
        if job.events.send(event).is_err() && !is_over {
            self.abort(id);
        } else if is_over {
            self.forget(id);
        }
    }

    fn show(&self) {
        let (gauges, counts) = (self.gauges, self.engine.counts());
        gauges.running.store(self.engine.running(), Ordering::Relaxed);
        gauges.waiting.store(self.engine.waiting(), Ordering::Relaxed);
        gauges.pages.store(self.engine.pages(), Ordering::Relaxed);
        gauges.free_pages.store(self.engine.free_pages(), Ordering::Relaxed);
        gauges.tokens.store(counts.tokens as u64, Ordering::Relaxed);
        gauges.preemptions.store(counts.preemptions as u64, Ordering::Relaxed);
        gauges.steps.fetch_add(1, Ordering::Relaxed);
    }
}

fn failed(error: &SampleError) -> JobEvent {
    JobEvent::Failed { kind: error.kind(), message: error.to_string() }
}
