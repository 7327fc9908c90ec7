//! Answers to the held-out prompts in shards, of which each rank takes the next that nobody has.
//!
//! ```text
//! eval_parts/
//!   plan.json         how many prompts a shard has, for whoever goes on
//!   sampling.json     what the first sampler had of its device (`stages/sampling_file.rs`)
//!   00000.parquet …   finished shards
//! ```
//!
//! A shard has as many prompts as there are for a rank, `sample.shard_prompts` at most. Where an answer's bits do not depend on its batch
//! (on a CPU, or with `sample.batch_invariant`), the answers are those of one process; elsewhere a shard's own schedule decides them.
//! The folder goes once all answers are in one file.

use std::ops::ControlFlow;
use std::time::Instant;

use selfplay_records::{Candidates, read_rows, write_rows};
use selfplay_sampler::{SampleError, SampleSettings, Sampler, encode};
use serde::{Deserialize, Serialize};

use super::setting::{settings_of, shared_name, title};
use crate::console::progress::Task;
use crate::error::EngineError;
use crate::iteration::policy::Policy;
use crate::iteration::session::Session;
use crate::iteration::shared_shards::{ShardKind, SharedShards};
use crate::json_file::{read_json, write_json};
use crate::ranks::claims::ShardTask;
use crate::ranks::patience::Patience;
use crate::run::dir::{EvalDir, make_folder, shards_in};
use crate::stages::sampling_file;

const PLAN: &str = "plan.json";
const SAMPLING: &str = "sampling.json";

/// `plan.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DrawPlan {
    /// Of each shard but the last.
    shard_prompts: usize,
}

/// Whether ranks have begun to draw a policy's answers in shards.
pub(super) fn is_drawn_in_parts(session: &Session, iteration: usize) -> bool {
    session.run.evaluation(iteration).parts().join(PLAN).is_file()
}

/// Draws the answers by all ranks, or what is left of them by one process: the file of all of them is there afterwards.
///
/// # Errors
/// When a shard cannot be drawn or written; another rank's failure; a signal. Whole shards stay.
pub(super) fn draw_together(
    session: &Session,
    policy: &mut Policy,
    iteration: usize,
) -> Result<(), EngineError> {
    let (dir, ranks) = (session.run.evaluation(iteration), &session.ranks);
    let claims = ranks.claims(&shared_name(iteration));
    let mut patience = Patience::default();
    let plan = if ranks.is_first() {
        plan(session, &dir)?
    } else {
        // Rank 0 lets the others take shards once it has a sampler, whose capacity is theirs too.
        while claims.as_ref().is_some_and(|claims| !claims.is_open()) {
            if dir.samples_file().is_file() {
                return Ok(());
            }
            ranks.pause(&mut patience)?;
        }
        match read_json(&dir.parts().join(PLAN)) {
            // All was drawn meanwhile.
            Err(_) if dir.samples_file().is_file() => return Ok(()),
            read => read?,
        }
    };
    let kind = ShardKind {
        task: ShardTask::Answer,
        folder: dir.parts(),
        ending: ".parquet",
        count: session.inputs.held_out.len().div_ceil(plan.shard_prompts.max(1)),
        title: format!("{}: answering", title(iteration)),
    };
    let prompts = session.inputs.held_out.len();
    let drawing = Drawing {
        session,
        plan,
        task: session.progress.task(kind.title.clone(), "held-out prompts", prompts as u64),
        shards: SharedShards::new(session, claims, kind),
        dir,
    };
    drawing.draw_all(policy, &mut patience)
}

/// The plan of an earlier launch that has finished shards, else a new one.
fn plan(session: &Session, dir: &EvalDir) -> Result<DrawPlan, EngineError> {
    let file = dir.parts().join(PLAN);
    if file.is_file() && !shards_in(&dir.parts())?.is_empty() {
        return read_json(&file);
    }
    let each = session.inputs.held_out.len().div_ceil(session.ranks.world().max(1));
    let plan = DrawPlan { shard_prompts: each.min(session.recipe.sample.shard_prompts).max(1) };
    make_folder(&dir.parts())?;
    write_json(&file, &plan)?;
    Ok(plan)
}

/// A rank at the answers of a policy.
struct Drawing<'a> {
    session: &'a Session,
    dir: EvalDir,
    plan: DrawPlan,
    shards: SharedShards<'a>,
    task: Task,
}

impl Drawing<'_> {
    fn draw_all(self, policy: &mut Policy, patience: &mut Patience) -> Result<(), EngineError> {
        let ranks = &self.session.ranks;
        let (started, mut drawn) = (Instant::now(), 0);
        // Of another rank than 0 the work ends with the file of all answers.
        while !self.dir.samples_file().is_file() {
            let left = self.shards.missing()?;
            if left.is_empty() && ranks.is_first() {
                return self.join(started, drawn);
            }
            let first = if self.shards.is_open() { self.shards.take(left)? } else { None };
            if first.is_some() || !self.shards.is_open() {
                drawn += self.draw(policy, first)?;
                patience.reset();
            } else {
                ranks.pause(patience)?;
            }
        }
        Ok(())
    }

    /// Draws shards while there is one that nobody has; how many. `first` is one that this rank has already.
    fn draw(&self, policy: &mut Policy, first: Option<usize>) -> Result<usize, EngineError> {
        let (session, inputs) = (self.session, &self.session.inputs);
        session.ranks.enter("evaluate");
        let decoder = policy.for_evaluation(session)?;
        let file = self.dir.parts().join(SAMPLING);
        let capacity = sampling_file::earlier(&file, decoder.device())?;
        let settings = SampleSettings { capacity, ..settings_of(session) };
        let mut sampler = Sampler::new(decoder, &inputs.policy.codec, &inputs.policy.stop_ids, &settings)?;
        if session.ranks.is_first() {
            sampling_file::keep(&file, decoder.device(), sampler.capacity())?;
            self.shards.open()?;
        }
        let (mut taken, mut drawn) = (first, 0);
        loop {
            session.check_stop()?;
            if taken.is_none() && !self.dir.samples_file().is_file() {
                let left = self.shards.missing()?;
                let there = (self.shards.count() - left.len()) * self.plan.shard_prompts;
                self.task.set(there.min(inputs.held_out.len()) as u64, "");
                taken = self.shards.take(left)?;
            }
            let Some(shard) = taken.take() else { return Ok(drawn) };
            self.draw_shard(&mut sampler, shard)?;
            drawn += 1;
        }
    }

    fn draw_shard(&self, sampler: &mut Sampler<'_>, shard: usize) -> Result<(), EngineError> {
        let (session, inputs) = (self.session, &self.session.inputs);
        let prompts = inputs.held_out.chunks(self.plan.shard_prompts.max(1)).nth(shard).unwrap_or_default();
        let encoded = encode(&inputs.policy.codec, prompts)?;
        let drawn = sampler.generate(&encoded, &mut |_| {
            session.ranks.moved();
            if session.check_stop().is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if matches!(drawn, Err(SampleError::Interrupted)) {
            session.check_stop()?;
        }
        match write_rows(&self.shards.file(shard), &drawn?) {
            // Another rank took this one for lost, and drew it; the shards are gone since.
            Err(_) if self.dir.samples_file().is_file() => Ok(()),
            written => Ok(written?),
        }
    }

    /// Rank 0's end: all answers in one file.
    fn join(self, started: Instant, drawn: usize) -> Result<(), EngineError> {
        let mut rows: Vec<Candidates> = Vec::with_capacity(self.session.inputs.held_out.len());
        for shard in 0..self.shards.count() {
            rows.extend(read_rows::<Candidates>(&self.shards.file(shard))?);
        }
        write_rows(&self.dir.samples_file(), &rows)?;
        self.dir.remove_parts();
        let (count, shards) = (rows.len(), self.shards.count());
        let (ranks, seconds) = (self.session.ranks.world(), started.elapsed().as_secs_f64());
        self.task.finish(&format!(
            "{count} held-out prompts in {shards} shards by {ranks} ranks, {drawn} of them by this one, {seconds:.1} s"
        ));
        Ok(())
    }
}
