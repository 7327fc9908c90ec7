//! Scoring beside sampling: a finished shard goes through a bounded channel to the scorer's thread.
//!
//! The channel holds two shards, so that memory does not grow when scoring is the slower of the two. On a CPU both
//! share the worker threads; a model that another program computes needs no device, so that it is the same for it. A CUDA stream belongs to one thread, so there the models take turns: where the preference
//! model fits beside the policy, a shard is scored as soon as it is sampled; else [`Scorer::compare`] scores all of them
//! when the policy has gone. What a shard's preferences are does not depend on which.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};
use selfplay_records::Candidates;
use selfplay_scorer::PreferenceModel;

use super::opponents::Opponents;
use super::policy::Policy;
use super::workspace::Iteration;
use crate::error::EngineError;
use crate::inputs::other_fields;
use crate::recipe::Stage;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::stages::{Product, Shards, Workspace, sample, score_shard};

/// Shards that wait for the scorer at most.
const WAITING_SHARDS: usize = 2;

/// A finished shard of candidates.
struct FinishedShard {
    shard: usize,
    rows: Vec<Candidates>,
}

/// Compares shards as they come.
pub struct Scorer<'scope> {
    iteration: &'scope Iteration<'scope>,
    started: Instant,
    /// Earlier candidates that the new ones are compared with.
    opponents: Arc<Opponents>,
    mode: RefCell<ScoringMode<'scope>>,
}

/// When shards are compared.
enum ScoringMode<'scope> {
    /// On a thread beside the sampler's.
    Thread { sender: Sender<FinishedShard>, thread: ScopedJoinHandle<'scope, Result<(), EngineError>> },
    /// On the sampler's own, between two of its steps. Shards that lay on disk come after, and so do those from an error on.
    Interleaved { model: Box<dyn PreferenceModel>, done: Vec<usize>, failed: Option<EngineError> },
    /// All of them after sampling.
    Deferred,
}

impl<'scope> Scorer<'scope> {
    /// Begins with the shards that are sampled already; loads nothing when none is to be scored.
    ///
    /// # Errors
    /// When the folder of preferences cannot be made.
    pub fn start(
        scope: &'scope Scope<'scope, '_>,
        iteration: &'scope Iteration<'scope>,
    ) -> Result<Self, EngineError> {
        let needed = !iteration.left.score.is_empty();
        if needed {
            make_folder(&iteration.path(Product::Preferences))?;
        }
        let opponents = Arc::new(if needed { Opponents::of(iteration)? } else { Opponents::default() });
        let (runtime, inputs) = (&iteration.session.runtime, &iteration.session.inputs);
        let mode = if !needed {
            ScoringMode::Deferred
        } else if runtime.device.is_cpu() || iteration.recipe().score.settings.kind.runs_elsewhere() {
            let (sender, receiver) = bounded(WAITING_SHARDS);
            let joined = Arc::clone(&opponents);
            let thread = scope.spawn(move || score_beside(iteration, &joined, &receiver));
            ScoringMode::Thread { sender, thread }
        } else if runtime.has_room(inputs.preference_bytes(iteration.recipe())? + inputs.policy_bytes()?)? {
            let model = iteration.session.preference_model(iteration.number)?;
            ScoringMode::Interleaved { model, done: Vec::new(), failed: None }
        } else {
            ScoringMode::Deferred
        };
        Ok(Self { iteration, started: Instant::now(), opponents, mode: RefCell::new(mode) })
    }

    /// Samples every shard that is missing. Where the scorer has stopped with an error, sampling stops too, and
    /// [`Scorer::compare`] returns the error.
    ///
    /// # Errors
    /// When a shard cannot be sampled or written, or a signal asks for a stop; whole shards stay.
    pub fn sample(&self, policy: &mut Policy) -> Result<Shards, EngineError> {
        let (session, missing) = (self.iteration.session, &self.iteration.left.sample);
        if !missing.is_empty() {
            self.iteration.check_stop()?;
            let prompts = &session.inputs.training[self.iteration.number - 1];
            let by_server = session.recipe.sample.backend.is_endpoint();
            let decoder =
                if by_server { policy.for_scoring(session)? } else { policy.for_sampling(session)? };
            let mut give = |shard, rows| self.give(shard, rows);
            sample(self.iteration, decoder, &session.inputs.policy, prompts, missing, &mut give)?;
        }
        Ok(self.iteration.shards(Product::Candidates))
    }

    /// Hands over a finished shard; `Break` when the scorer has stopped with an error.
    fn give(&self, shard: usize, mut rows: Vec<Candidates>) -> ControlFlow<()> {
        if !self.iteration.left.score.contains(&shard) {
            return ControlFlow::Continue(());
        }
        self.opponents.join(&mut rows);
        match &mut *self.mode.borrow_mut() {
            ScoringMode::Thread { sender, .. } => match sender.send(FinishedShard { shard, rows }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            },
            ScoringMode::Interleaved { model, done, failed } => {
                match score_shard(self.iteration, &**model, shard, &rows, &mut |_| ()) {
                    Ok(_) => {
                        done.push(shard);
                        ControlFlow::Continue(())
                    }
                    Err(error) => {
                        *failed = Some(error);
                        ControlFlow::Break(())
                    }
                }
            }
            ScoringMode::Deferred => ControlFlow::Continue(()),
        }
    }

    /// Compares what is left and waits for it.
    ///
    /// # Errors
    /// When a shard cannot be scored or written, or a signal asks for a stop; whole shards stay.
    pub fn compare(&self, candidates: &Shards, policy: &mut Policy) -> Result<Shards, EngineError> {
        let iteration = self.iteration;
        let shards = iteration.shards(Product::Preferences);
        if iteration.left.score.is_empty() {
            return Ok(shards);
        }
        let waiting = Instant::now();
        match self.mode.replace(ScoringMode::Deferred) {
            ScoringMode::Thread { sender, thread } => {
                // No more shards will come: the thread ends when its channel is empty.
                drop(sender);
                thread.join().unwrap_or(Err(EngineError::ThreadLost { thread: "scoring" }))?;
            }
            ScoringMode::Interleaved { failed: Some(error), .. } => return Err(error),
            ScoringMode::Interleaved { model, done, failed: None } => {
                let left = iteration.left.score.iter().filter(|shard| !done.contains(shard));
                score_from_disk(iteration, candidates, &*model, &self.opponents, left)?;
            }
            ScoringMode::Deferred => {
                let session = iteration.session;
                let bytes = session.inputs.preference_bytes(&session.recipe)?;
                policy.make_room(session, bytes)?;
                let model = session.preference_model(iteration.number)?;
                score_from_disk(iteration, candidates, &*model, &self.opponents, &iteration.left.score)?;
            }
        }
        let seconds = waiting.elapsed().as_secs_f64();
        iteration.record(Event::ScoringDrained { iteration: iteration.number, seconds })?;
        iteration.progress().line(format!(
            "{}: {} shards × {} candidates a prompt compared, {:.1} s, of which {seconds:.1} s after sampling",
            iteration.title(Stage::Preferences),
            iteration.left.score.len(),
            iteration.recipe().sample.num_samples,
            self.started.elapsed().as_secs_f64(),
        ));
        Ok(shards)
    }
}

/// The scorer's thread: first what lay on disk, then what comes.
fn score_beside(
    iteration: &Iteration<'_>,
    opponents: &Opponents,
    receiver: &Receiver<FinishedShard>,
) -> Result<(), EngineError> {
    let session = iteration.session;
    let model = session.preference_model(iteration.number)?;
    let on_disk = iteration.left.score.iter().filter(|shard| !iteration.left.sample.contains(shard));
    score_from_disk(iteration, &iteration.shards(Product::Candidates), &*model, opponents, on_disk)?;
    for finished in receiver {
        score_shard(iteration, &*model, finished.shard, &finished.rows, &mut |_| ())?;
    }
    Ok(())
}

/// In this thread.
fn score_from_disk<'a>(
    iteration: &Iteration<'_>,
    candidates: &Shards,
    model: &dyn PreferenceModel,
    opponents: &Opponents,
    shards: impl IntoIterator<Item = &'a usize>,
) -> Result<(), EngineError> {
    for &shard in shards {
        iteration.check_stop()?;
        let mut rows: Vec<Candidates> = candidates.read(shard)?;
        other_fields::take_up(&mut rows, &iteration.session.inputs.training[iteration.number - 1]);
        opponents.join(&mut rows);
        score_shard(iteration, model, shard, &rows, &mut |_| ())?;
    }
    Ok(())
}
