//! Scoring beside sampling: a finished shard goes through a bounded channel to the scorer's thread.
//!
//! The channel holds two shards, so that memory does not grow when scoring is the slower of the two. On a CPU both
//! share the worker threads. A CUDA stream belongs to one thread, so there the models take turns: shards are scored
//! by [`Scorer::compare`] when all are sampled. What a shard's preferences are does not depend on which.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use selfplay_records::Candidates;

use crate::events::Event;
use crate::run_dir::make_folder;
use crate::run_error::RunError;
use crate::session::{Session, Work};
use crate::stages::{Shards, score_shard};

/// Shards that wait for the scorer at most.
const WAITING_SHARDS: usize = 2;

/// A finished shard of candidates.
struct Finished {
    shard: usize,
    rows: Vec<Candidates>,
}

/// Compares shards as they come.
pub struct Scorer<'scope> {
    session: &'scope Session,
    work: &'scope Work,
    started: Instant,
    beside: RefCell<Option<Beside<'scope>>>,
}

/// The thread beside the sampler.
struct Beside<'scope> {
    sender: Sender<Finished>,
    thread: ScopedJoinHandle<'scope, Result<(), RunError>>,
}

impl<'scope> Scorer<'scope> {
    /// Begins with the shards that are sampled already; loads nothing when none is to be scored.
    ///
    /// # Errors
    /// When the folder of preferences cannot be made.
    pub fn start(
        scope: &'scope Scope<'scope, '_>,
        session: &'scope Session,
        work: &'scope Work,
    ) -> Result<Self, RunError> {
        let needed = !work.to_score().is_empty();
        if needed {
            make_folder(&work.dir.preferences())?;
        }
        let beside = (needed && session.runtime.device.is_cpu()).then(|| {
            let (sender, receiver) = bounded(WAITING_SHARDS);
            let thread = scope.spawn(move || score_beside(session, work, &receiver));
            Beside { sender, thread }
        });
        Ok(Self { session, work, started: Instant::now(), beside: RefCell::new(beside) })
    }

    /// Hands over a finished shard; `Break` when the scorer has stopped with an error.
    pub fn give(&self, shard: usize, rows: Vec<Candidates>) -> ControlFlow<()> {
        if !self.work.to_score().contains(&shard) {
            return ControlFlow::Continue(());
        }
        match &*self.beside.borrow() {
            Some(beside) if beside.sender.send(Finished { shard, rows }).is_err() => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Compares what is left and waits for it.
    ///
    /// # Errors
    /// When a shard cannot be scored or written, or a signal asks for a stop; whole shards stay.
    pub fn compare(&self, candidates: &Shards) -> Result<Shards, RunError> {
        let shards = Shards::new(self.work.dir.preferences(), self.work.shards);
        if self.work.to_score().is_empty() {
            return Ok(shards);
        }
        let waiting = Instant::now();
        match self.beside.take() {
            Some(Beside { sender, thread }) => {
                // No more shards will come: the thread ends when its channel is empty.
                drop(sender);
                thread.join().unwrap_or(Err(RunError::ThreadLost { thread: "scoring" }))?;
            }
            None => score_from_disk(self.session, self.work, candidates, self.work.to_score())?,
        }
        self.session.events.record(Event::ScoringDrained {
            iteration: self.work.iteration,
            seconds: waiting.elapsed().as_secs_f64(),
        })?;
        let responses = self.session.recipe.sample.num_samples;
        self.session.progress.line(format!(
            "iteration {}: scoring: {} shards × {responses} candidates a prompt compared, {:.1} s, of which {:.1} s after sampling",
            self.work.iteration,
            self.work.to_score().len(),
            self.started.elapsed().as_secs_f64(),
            waiting.elapsed().as_secs_f64(),
        ));
        Ok(shards)
    }
}

/// The scorer's thread: first what lay on disk, then what comes.
fn score_beside(session: &Session, work: &Work, receiver: &Receiver<Finished>) -> Result<(), RunError> {
    let model = session.inputs.preference_model(&session.recipe, &session.runtime)?;
    let candidates = Shards::new(work.dir.candidates(), work.shards);
    let on_disk = work.to_score().iter().filter(|shard| !work.to_sample().contains(shard));
    for &shard in on_disk {
        session.check_stop()?;
        score_shard(session, work, &*model, shard, &candidates.read(shard)?)?;
    }
    for finished in receiver {
        session.check_stop()?;
        score_shard(session, work, &*model, finished.shard, &finished.rows)?;
    }
    Ok(())
}

/// Where there is no thread of its own.
fn score_from_disk(
    session: &Session,
    work: &Work,
    candidates: &Shards,
    shards: &[usize],
) -> Result<(), RunError> {
    let model = session.inputs.preference_model(&session.recipe, &session.runtime)?;
    for &shard in shards {
        session.check_stop()?;
        score_shard(session, work, &*model, shard, &candidates.read(shard)?)?;
    }
    Ok(())
}
