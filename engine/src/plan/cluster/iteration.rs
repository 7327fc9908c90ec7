//! The time of an iteration on several GPUs, stage by stage: each is over when its last rank is.

use selfplay_trainer::REFERENCE_SHARD;
use serde::Serialize;

use super::shards::ShardDivision;
use super::step::StepPlan;

/// Who samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SamplingPlace {
    /// Each rank for itself.
    Ranks,
    /// The policy does not fit a GPU beside a candidate: servers that split it over so many each, assumed without loss.
    Servers {
        /// A power of two.
        gpus: usize,
    },
}

impl SamplingPlace {
    /// GPUs that sample together.
    pub(super) fn group(self) -> usize {
        match self {
            Self::Ranks => 1,
            Self::Servers { gpus } => gpus,
        }
    }

    /// Those of `ranks` that divide the held-out prompts: one group where none by itself can answer.
    pub(super) fn evaluating(self, ranks: usize) -> usize {
        match self {
            Self::Ranks => ranks,
            Self::Servers { .. } => 1,
        }
    }
}

/// Seconds of an iteration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct IterationTime {
    pub(crate) sampling: f64,
    pub(crate) scoring: f64,
    pub(crate) reference: f64,
    pub(crate) training: f64,
    /// Of training, waiting for the wire.
    pub(crate) waiting: f64,
    /// Answers to the held-out prompts, their log-probs and their comparison.
    pub(crate) held_out: f64,
    /// Files.
    pub(crate) files: f64,
}

impl IterationTime {
    /// Names and seconds of the stages that make up the whole.
    pub(crate) fn stages(&self) -> [(&'static str, f64); 6] {
        [
            ("sampling", self.sampling),
            ("scoring", self.scoring),
            ("reference log-probs", self.reference),
            ("training", self.training),
            ("held-out prompts", self.held_out),
            ("loading and writing", self.files),
        ]
    }

    /// All of it.
    pub(crate) fn total(&self) -> f64 {
        self.stages().iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Prompts of an iteration, and who answers them.
#[derive(Clone, Copy)]
pub(super) struct IterationWork {
    pub(super) shards: ShardDivision,
    pub(super) place: SamplingPlace,
    /// Bytes a second that are read and written.
    pub(super) disk: f64,
}

/// An iteration; `None` where a stage has no rate.
pub(super) fn iteration(plan: &StepPlan<'_>, work: &IterationWork) -> Option<IterationTime> {
    let clock = plan.clock;
    let prompts = work.shards.prompts as f64;
    let group = work.place.group();
    let groups = ShardDivision { ranks: (work.shards.ranks / group).max(1), ..work.shards };
    let pairs = clock.pairs(prompts);
    let busiest = busiest_pairs(pairs, plan.cluster.gpus);
    let alone = clock.reference(busiest)?;
    plan.time(1.0)?;
    let step = |pairs: f64| plan.time(pairs).unwrap_or_default();
    Some(IterationTime {
        sampling: clock.sampling(groups.busiest() as f64)? / group as f64,
        scoring: clock.scoring(work.shards.busiest() as f64)?,
        reference: alone
            + clock.policies() * plan.forward_waiting(busiest, alone / clock.policies().max(1.0)),
        training: clock.over_steps(prompts, |pairs| step(pairs).seconds),
        waiting: clock.over_steps(prompts, |pairs| step(pairs).waiting),
        held_out: clock.held_out(work.place.evaluating(work.shards.ranks))? / group as f64,
        files: clock.overhead(prompts, work.disk),
    })
}

/// Pairs whose log-probs the busiest rank computes: it takes a shard of them in each round.
fn busiest_pairs(pairs: f64, ranks: usize) -> f64 {
    let shards = (pairs / REFERENCE_SHARD as f64).ceil();
    pairs.min((shards / ranks.max(1) as f64).ceil() * REFERENCE_SHARD as f64)
}
