//! What is done with a shard of candidates as soon as it is whole, whoever drew it.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use selfplay_records::{Candidates, write_rows};

use super::shards::shard_path;
use super::workspace::{Product, Workspace};
use crate::error::EngineError;
use crate::run::events::Event;

/// Writes shards, notes them in the log of events, and hands them on.
pub(super) struct FinishedShards<'a> {
    place: &'a dyn Workspace,
    folder: PathBuf,
    missing: &'a [usize],
    hand_on: &'a mut dyn FnMut(usize, Vec<Candidates>) -> ControlFlow<()>,
    finished: usize,
    tokens: usize,
    started: Instant,
    shard_started: Instant,
}

impl<'a> FinishedShards<'a> {
    /// `missing` are the shards' numbers; `hand_on` is given each shard once it is on disk.
    pub(super) fn new(
        place: &'a dyn Workspace,
        missing: &'a [usize],
        hand_on: &'a mut dyn FnMut(usize, Vec<Candidates>) -> ControlFlow<()>,
    ) -> Self {
        let now = Instant::now();
        let folder = place.path(Product::Candidates);
        Self { place, folder, missing, hand_on, finished: 0, tokens: 0, started: now, shard_started: now }
    }

    /// The number of the shard at a place of `missing`.
    pub(super) fn number(&self, index: usize) -> usize {
        self.missing[index]
    }

    /// Takes the shard at a place of `missing`. `Break` ends the sampling without an error.
    ///
    /// # Errors
    /// When the shard cannot be written, or a signal asks for a stop and shards are left.
    pub(super) fn put(
        &mut self,
        index: usize,
        rows: Vec<Candidates>,
    ) -> Result<ControlFlow<()>, EngineError> {
        let shard = self.missing[index];
        write_rows(&shard_path(&self.folder, shard), &rows)?;
        let tokens = rows.iter().map(Candidates::tokens).sum();
        self.place.record(Event::Sampled {
            iteration: self.place.iteration(),
            shard,
            prompts: rows.len(),
            tokens,
            seconds: self.shard_started.elapsed().as_secs_f64(),
        })?;
        self.shard_started = Instant::now();
        self.tokens += tokens;
        self.finished += 1;
        if (self.hand_on)(shard, rows).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if self.finished < self.missing.len() {
            self.place.check_stop()?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The line that stays.
    pub(super) fn summary(&self, prompts: usize, num_samples: usize) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let (tokens, rate) = (self.tokens, self.tokens as f64 / seconds.max(1e-9));
        format!(
            "{prompts} prompts × {num_samples} candidates, {tokens} tokens, {rate:.0} tokens/s, {seconds:.1} s"
        )
    }
}
