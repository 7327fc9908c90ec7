//! Sampling and scoring by several ranks: each takes the next shard that nobody has (`ranks/claims.rs`), until all are on disk.
//!
//! A shard holds the same bytes whoever makes it, so that the iteration's folder is that of one rank. What asks a server or a program
//! stays on rank 0: one process asks them at once, and keeps one transcript. Where both models fit on the device, or share a processor's memory,
//! a shard is scored as soon as it is there, by whoever comes first; else a rank scores when no shard is left to sample.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use selfplay_records::{Candidates, atomic};
use selfplay_scorer::PreferenceModel;

use super::opponents::Opponents;
use super::policy::Policy;
use super::shared_shards::{ShardKind, SharedShards};
use super::workspace::Iteration;
use crate::console::progress::Task;
use crate::error::EngineError;
use crate::inputs::other_fields;
use crate::ranks::claims::{Claims, ShardTask};
use crate::ranks::patience::Patience;
use crate::recipe::Stage;
use crate::run::dir::make_folder;
use crate::run::events::Event;
use crate::stages::{Product, Workspace, sample, sample_taken, score_shard};

/// Samples and compares shards of the iteration until all of them are on disk, whoever made them.
///
/// # Errors
/// When a shard cannot be sampled, scored or written; another rank's failure; a signal. Whole shards stay.
pub fn sample_and_compare(iteration: &Iteration<'_>, policy: &mut Policy) -> Result<(), EngineError> {
    let ranks = &iteration.session.ranks;
    let Some(claims) = ranks.claims(&format!("iteration_{:02}", iteration.number)) else {
        return Err(EngineError::failure("a process by itself has nobody to share shards with"));
    };
    ranks.enter("sample");
    let started = Instant::now();
    let mut worker = ShardWorker::new(iteration, claims, policy)?;
    let mut patience = Patience::default();
    worker.sample_by_server(policy)?;
    loop {
        let done = worker.done();
        worker.sample(policy)?;
        worker.compare(Some(policy))?;
        if worker.is_over()? {
            break;
        }
        if worker.done() == done {
            ranks.pause(&mut patience)?;
        } else {
            patience.reset();
        }
    }
    if ranks.is_first() {
        worker.close(started)?;
    }
    Ok(())
}

/// A rank at the shards of an iteration.
struct ShardWorker<'a, 'b> {
    iteration: &'a Iteration<'b>,
    claims: Claims,
    candidates: SharedShards<'a>,
    preferences: SharedShards<'a>,
    task: Task,
    /// Whether this rank samples, and whether it compares.
    samples: bool,
    compares: bool,
    /// Whether the preference model may be in memory beside the policy.
    beside: bool,
    model: Option<Box<dyn PreferenceModel>>,
    opponents: Option<Opponents>,
    sampled: usize,
    compared: usize,
    /// What the sampled shards took.
    sampling: Duration,
}

impl<'a, 'b> ShardWorker<'a, 'b> {
    fn new(iteration: &'a Iteration<'b>, claims: Claims, policy: &mut Policy) -> Result<Self, EngineError> {
        let session = iteration.session;
        let recipe = iteration.recipe();
        let first = session.ranks.is_first();
        let (asks_server, asks_judge) =
            (recipe.sample.backend.is_endpoint(), recipe.score.settings.kind.runs_elsewhere());
        let (runtime, inputs) = (&session.runtime, &session.inputs);
        let compares = first || !asks_judge;
        let beside = runtime.device.is_cpu()
            || asks_judge
            || runtime.has_room(inputs.preference_bytes(recipe)? + inputs.policy_bytes()?)?;
        let prompts = inputs.training[iteration.number - 1].len();
        let shared = |task: ShardTask, product: Product, stage: Stage| {
            let (folder, count) = (iteration.path(product), iteration.shards(product).count());
            let kind = ShardKind { task, folder, ending: ".parquet", count, title: iteration.title(stage) };
            SharedShards::new(session, Some(claims.clone()), kind)
        };
        let mut worker = Self {
            iteration,
            candidates: shared(ShardTask::Sample, Product::Candidates, Stage::Candidates),
            preferences: shared(ShardTask::Score, Product::Preferences, Stage::Preferences),
            claims,
            task: iteration.task(Stage::Candidates, "prompts", prompts),
            samples: !asks_server,
            compares,
            beside,
            model: None,
            opponents: None,
            sampled: 0,
            compared: 0,
            sampling: Duration::ZERO,
        };
        if compares {
            make_folder(&iteration.path(Product::Preferences))?;
            // The sampler's cache takes what memory of a GPU is left.
            if beside && !runtime.device.is_cpu() {
                worker.load_model(Some(policy))?;
            }
        }
        Ok(worker)
    }

    /// Shards that this rank has made.
    fn done(&self) -> usize {
        self.sampled + self.compared
    }

    /// Rank 0 asks the servers for all that is missing; the others score what comes of it.
    fn sample_by_server(&mut self, policy: &mut Policy) -> Result<(), EngineError> {
        let (iteration, session) = (self.iteration, self.iteration.session);
        if self.samples || !session.ranks.is_first() {
            return Ok(());
        }
        self.claims.open()?;
        let missing: Vec<usize> = self.candidates.missing()?;
        if missing.is_empty() {
            return Ok(());
        }
        let decoder = policy.for_scoring(session)?;
        let prompts = &session.inputs.training[iteration.number - 1];
        let (mut count, begun) = (0, Instant::now());
        let mut hand_on = |_: usize, _: Vec<Candidates>| {
            count += 1;
            // Servers may take long for a shard, and tell nothing in between.
            session.ranks.enter("sample");
            ControlFlow::Continue(())
        };
        sample(iteration, decoder, &session.inputs.policy, prompts, &missing, &mut hand_on)?;
        self.sampled += count;
        self.sampling += begun.elapsed();
        Ok(())
    }

    /// Samples while there is a shard that nobody has.
    fn sample(&mut self, policy: &mut Policy) -> Result<(), EngineError> {
        let (iteration, session) = (self.iteration, self.iteration.session);
        if !self.samples {
            return Ok(());
        }
        // Rank 0 lets the others take shards once it has a sampler, whose capacity is theirs too.
        let mut first = None;
        if self.claims.is_open() {
            first = self.take(ShardTask::Sample)?;
            if first.is_none() {
                return Ok(());
            }
        } else if !session.ranks.is_first() {
            return Ok(());
        } else if self.candidates.missing()?.is_empty() {
            return self.claims.open();
        }
        if !self.beside {
            self.model = None;
        }
        session.ranks.enter("sample");
        let decoder = policy.for_sampling(session)?;
        let prompts = &session.inputs.training[iteration.number - 1];
        let mut begun: Option<Instant> = None;
        let mut next = || {
            if let Some(begun) = begun.take() {
                self.sampled += 1;
                self.sampling += begun.elapsed();
            }
            iteration.check_stop()?;
            let mut taken = first.take();
            if taken.is_none() {
                if session.ranks.is_first() {
                    self.claims.open()?;
                }
                if self.beside {
                    self.compare(None)?;
                }
                taken = self.take(ShardTask::Sample)?;
            }
            begun = taken.map(|_| Instant::now());
            Ok(taken)
        };
        sample_taken(iteration, decoder, &session.inputs.policy, prompts, &mut next)
    }

    /// Scores while there is a shard of candidates that nobody scores. `policy`: what may have to make room.
    fn compare(&mut self, mut policy: Option<&mut Policy>) -> Result<(), EngineError> {
        if !self.compares || !self.claims.is_open() {
            return Ok(());
        }
        // What takes a shard must be able to begin at once.
        while !self.ready_to_compare()?.is_empty() {
            self.load_model(policy.as_deref_mut())?;
            let Some(shard) = self.take(ShardTask::Score)? else { return Ok(()) };
            self.compare_shard(shard)?;
        }
        Ok(())
    }

    fn compare_shard(&mut self, shard: usize) -> Result<(), EngineError> {
        let (iteration, session) = (self.iteration, self.iteration.session);
        iteration.check_stop()?;
        let mut rows: Vec<Candidates> = iteration.shards(Product::Candidates).read(shard)?;
        other_fields::take_up(&mut rows, &session.inputs.training[iteration.number - 1]);
        let opponents = match &self.opponents {
            Some(opponents) => opponents,
            None => self.opponents.insert(Opponents::of(iteration)?),
        };
        opponents.join(&mut rows);
        if let Some(model) = &self.model {
            score_shard(iteration, &**model, shard, &rows, &mut |_| ())?;
            self.compared += 1;
        }
        Ok(())
    }

    fn load_model(&mut self, policy: Option<&mut Policy>) -> Result<(), EngineError> {
        if self.model.is_some() {
            return Ok(());
        }
        let (iteration, session) = (self.iteration, self.iteration.session);
        if let Some(policy) = policy.filter(|_| !self.beside) {
            policy.make_room(session, session.inputs.preference_bytes(iteration.recipe())?)?;
        }
        session.ranks.enter("load the preference model");
        self.model = Some(session.preference_model(iteration.number)?);
        session.ranks.enter("score");
        Ok(())
    }

    /// Takes a shard of a task that is not on disk.
    fn take(&self, task: ShardTask) -> Result<Option<usize>, EngineError> {
        if task == ShardTask::Score {
            return self.preferences.take(self.ready_to_compare()?);
        }
        let left = self.candidates.missing()?;
        let recipe = self.iteration.recipe();
        let prompts = self.iteration.session.inputs.training[self.iteration.number - 1].len();
        self.task.set(prompts.saturating_sub(left.len() * recipe.sample.shard_prompts) as u64, "");
        self.candidates.take(left)
    }

    /// Numbers of the shards whose candidates are on disk and whose preferences are not, ascending.
    fn ready_to_compare(&self) -> Result<Vec<usize>, EngineError> {
        let sampled = self.candidates.done()?;
        let missing = self.preferences.missing()?;
        Ok(missing.into_iter().filter(|shard| sampled.contains(shard)).collect())
    }

    /// Whether nothing is left for this rank.
    fn is_over(&self) -> Result<bool, EngineError> {
        let is_sampled = self.candidates.missing()?.is_empty();
        Ok(is_sampled && (!self.compares || self.preferences.missing()?.is_empty()))
    }

    /// Rank 0's end: what the others have noted, and the lines that stay.
    fn close(self, started: Instant) -> Result<(), EngineError> {
        let Self { iteration, claims, task, sampled, compared, sampling, .. } = self;
        let (session, number) = (iteration.session, iteration.number);
        for (rank, events) in session.ranks.others_events() {
            session.events.adopt(rank, &events, number)?;
        }
        // Scoring, and waiting for the others: each sampled shard has noted its own time.
        let (all, sampling) = (started.elapsed().as_secs_f64(), sampling.as_secs_f64());
        let seconds = (all - sampling).max(0.0);
        iteration.record(Event::ScoringDrained { iteration: number, seconds })?;
        claims.close();
        // Of ranks that were killed while they wrote.
        for product in [Product::Candidates, Product::Preferences] {
            atomic::remove_unheld(&iteration.path(product));
        }
        let shards = iteration.shards(Product::Candidates).count();
        task.finish(&format!(
            "{} prompts × {} candidates in {shards} shards by {} ranks, {sampled} of them by this one",
            session.inputs.training[number - 1].len(),
            iteration.recipe().sample.num_samples,
            session.ranks.world(),
        ));
        iteration.progress().line(format!(
            "{}: {shards} shards compared, {compared} of them by this rank; {all:.1} s, of which it has sampled {sampling:.1} s",
            iteration.title(Stage::Preferences),
        ));
        Ok(())
    }
}
