//! Prompts divided among ranks by shards: a rank takes the next shard that nobody has.

use serde::Serialize;

/// How many shards there are and who has how many of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShardDivision {
    /// Prompts of all.
    pub(crate) prompts: usize,
    /// Prompts of a shard.
    pub(crate) shard_prompts: usize,
    /// Who takes them.
    pub(crate) ranks: usize,
}

impl ShardDivision {
    /// How many shards there are.
    pub(crate) fn shards(&self) -> usize {
        self.prompts.div_ceil(self.shard_prompts.max(1))
    }

    /// Prompts of the rank that ends last, where all shards take as long.
    pub(crate) fn busiest(&self) -> usize {
        self.prompts.min(self.rounds() * self.shard_prompts.max(1))
    }

    /// Shards of that rank.
    pub(crate) fn rounds(&self) -> usize {
        self.shards().div_ceil(self.ranks.max(1))
    }

    /// Ranks that wait while the last shards are answered.
    pub(crate) fn waiting(&self) -> usize {
        match self.shards() % self.ranks.max(1) {
            0 => 0,
            busy => self.ranks - busy,
        }
    }

    /// Shards of which every rank gets as many: up to four, as long as one's candidates fill a step of sampling, so that
    /// little is lost with a rank that dies. `full` is that many prompts.
    pub(crate) fn even(prompts: usize, ranks: usize, full: usize) -> Self {
        let size = |each: usize| prompts.div_ceil(ranks.max(1) * each).max(1);
        let each = (1..=4).rev().find(|&each| size(each) >= full).unwrap_or(1);
        Self { prompts, shard_prompts: size(each), ranks }
    }
}
