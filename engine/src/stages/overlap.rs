//! Scoring beside sampling: a finished shard goes through a bounded channel to the scorer's thread.
//!
//! The channel holds two shards, so that memory does not grow when scoring is the slower of the two. On a CPU both
//! share the worker threads. A CUDA stream belongs to one thread, so there the models take turns: where the preference
//! model fits beside the policy, a shard is scored as soon as it is sampled; else [`Scorer::compare`] scores all of them
//! when the policy has gone. What a shard's preferences are does not depend on which.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use selfplay_records::Candidates;
use selfplay_scorer::PreferenceModel;

use crate::error::EngineError;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::session::{Session, Work};
use crate::stages::{Policy, Shards, score_shard};

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
    beside: RefCell<Beside<'scope>>,
}

/// What compares shards while others are sampled.
enum Beside<'scope> {
    /// A thread beside the sampler's.
    Thread { sender: Sender<Finished>, thread: ScopedJoinHandle<'scope, Result<(), EngineError>> },
    /// The sampler's own, between two of its steps. Shards that lay on disk come after, and so do those from an error on.
    Turns { model: Box<dyn PreferenceModel>, done: Vec<usize>, failed: Option<EngineError> },
    /// Nothing: all shards come after.
    Nobody,
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
    ) -> Result<Self, EngineError> {
        let needed = !work.left.score.is_empty();
        if needed {
            make_folder(&work.dir.preferences())?;
        }
        let runtime = &session.runtime;
        let beside = if !needed {
            Beside::Nobody
        } else if runtime.device.is_cpu() {
            let (sender, receiver) = bounded(WAITING_SHARDS);
            let thread = scope.spawn(move || score_beside(session, work, &receiver));
            Beside::Thread { sender, thread }
        } else if runtime
            .has_room(session.inputs.preference_bytes(&session.recipe)? + session.inputs.policy_bytes()?)?
        {
            let model = session.inputs.preference_model(&session.recipe, runtime)?;
            Beside::Turns { model, done: Vec::new(), failed: None }
        } else {
            Beside::Nobody
        };
        Ok(Self { session, work, started: Instant::now(), beside: RefCell::new(beside) })
    }

    /// Hands over a finished shard; `Break` when the scorer has stopped with an error.
    pub fn give(&self, shard: usize, rows: Vec<Candidates>) -> ControlFlow<()> {
        if !self.work.left.score.contains(&shard) {
            return ControlFlow::Continue(());
        }
        match &mut *self.beside.borrow_mut() {
            Beside::Thread { sender, .. } => match sender.send(Finished { shard, rows }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            },
            Beside::Turns { model, done, failed } => {
                match score_shard(self.session, self.work, &**model, shard, &rows) {
                    Ok(()) => {
                        done.push(shard);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        *failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            }
            Beside::Nobody => ControlFlow::Continue(()),
        }
    }

    /// Compares what is left and waits for it.
    ///
    /// # Errors
    /// When a shard cannot be scored or written, or a signal asks for a stop; whole shards stay.
    pub fn compare(&self, candidates: &Shards, policy: &mut Policy) -> Result<Shards, EngineError> {
        let shards = Shards::new(self.work.dir.preferences(), self.work.shards);
        if self.work.left.score.is_empty() {
            return Ok(shards);
        }
        let waiting = Instant::now();
        match self.beside.replace(Beside::Nobody) {
            Beside::Thread { sender, thread } => {
                // No more shards will come: the thread ends when its channel is empty.
                drop(sender);
                thread.join().unwrap_or(Err(EngineError::ThreadLost { thread: "scoring" }))?;
            }
            Beside::Turns { failed: Some(error), .. } => return Err(error),
            Beside::Turns { model, done, failed: None } => {
                let left = self.work.left.score.iter().filter(|shard| !done.contains(shard));
                score_from_disk(self.session, self.work, candidates, &*model, left)?;
            }
            Beside::Nobody => {
                let bytes = self.session.inputs.preference_bytes(&self.session.recipe)?;
                policy.make_room(self.session, bytes)?;
                let model =
                    self.session.inputs.preference_model(&self.session.recipe, &self.session.runtime)?;
                score_from_disk(self.session, self.work, candidates, &*model, &self.work.left.score)?;
            }
        }
        self.session.events.record(Event::ScoringDrained {
            iteration: self.work.iteration,
            seconds: waiting.elapsed().as_secs_f64(),
        })?;
        let responses = self.session.recipe.sample.num_samples;
        self.session.progress.line(format!(
            "iteration {}: scoring: {} shards × {responses} candidates a prompt compared, {:.1} s, of which {:.1} s after sampling",
            self.work.iteration,
            self.work.left.score.len(),
            self.started.elapsed().as_secs_f64(),
            waiting.elapsed().as_secs_f64(),
        ));
        Ok(shards)
    }
}

/// The scorer's thread: first what lay on disk, then what comes.
fn score_beside(session: &Session, work: &Work, receiver: &Receiver<Finished>) -> Result<(), EngineError> {
    let model = session.inputs.preference_model(&session.recipe, &session.runtime)?;
    let candidates = Shards::new(work.dir.candidates(), work.shards);
    let on_disk = work.left.score.iter().filter(|shard| !work.left.sample.contains(shard));
    score_from_disk(session, work, &candidates, &*model, on_disk)?;
    for finished in receiver {
        session.check_stop()?;
        score_shard(session, work, &*model, finished.shard, &finished.rows)?;
    }
    Ok(())
}

/// In this thread.
fn score_from_disk<'a>(
    session: &Session,
    work: &Work,
    candidates: &Shards,
    model: &dyn PreferenceModel,
    shards: impl IntoIterator<Item = &'a usize>,
) -> Result<(), EngineError> {
    for &shard in shards {
        session.check_stop()?;
        score_shard(session, work, model, shard, &candidates.read(shard)?)?;
    }
    Ok(())
}
