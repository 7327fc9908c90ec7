//! Checkpoints of a training whose state ranks hold by ranges: the files of one rank, written and read by rank 0.

use std::cell::Cell;
use std::path::Path;

use selfplay_model::Decoder;

use super::checkpoint::{self, CheckpointState, TensorFiles, TensorHashes};
use super::metrics::{StepLog, StepMetrics};
use super::run::TrainRun;
use super::state::{LoopState, metrics_path};
use crate::TrainError;
use crate::collective::{agree, from_first, is_first};
use crate::zero::{self, Shards};

impl LoopState {
    /// As [`LoopState::resume`], on all ranks: rank 0 reads, and each takes what it holds.
    pub(super) fn resume_shards(
        &mut self,
        shards: &Shards,
        decoder: &Decoder,
        run: &TrainRun<'_>,
    ) -> Result<(), TrainError> {
        let collective = run.collective;
        let find = || -> Result<_, TrainError> {
            let Some(found) = checkpoint::latest(run.folder)? else { return Ok(None) };
            let state = checkpoint::read_state(&found, &self.identity, collective.parts())?;
            Ok(Some((found, state)))
        };
        let found = agree(collective, if is_first(collective) { find() } else { Ok(None) })?;
        let step = found.as_ref().map_or(0, |(_, state)| state.step);
        self.done = from_first(collective, &[step as f64])?.first().map_or(0, |&done| done as usize);
        if self.done > 0 {
            let files = found.as_ref().map(|(found, state)| TensorFiles::of(found, state));
            let (weights, optimizer) = match &files {
                Some(files) => (
                    (files.weights.as_path(), files.weights_sha256),
                    (files.optimizer.as_path(), files.optimizer_sha256),
                ),
                // Not read here.
                None => ((run.folder, None), (run.folder, None)),
            };
            let (items, device) = (shards.weight_items(), decoder.device());
            zero::read_scattered(collective, weights.0, weights.1, &items, device)?;
            shards.follow_masters()?;
            let items = zero::state_items(&self.optimizer, shards);
            zero::read_scattered(collective, optimizer.0, optimizer.1, &items, device)?;
            self.optimizer.set_steps(self.done as u64);
            self.saved = Some(self.done);
            if let Some((found, _)) = &found {
                tracing::info!("going on from {}", found.path.display());
            }
        }
        let opened = match is_first(collective) {
            true => StepLog::open::<StepMetrics>(&metrics_path(run.folder), self.done).map(Some),
            false => Ok(None),
        };
        self.log = agree(collective, opened)?;
        Ok(())
    }

    /// As [`LoopState::checkpoint`], on all ranks: the files are those that one rank would write.
    pub(super) fn checkpoint_shards(
        &mut self,
        shards: &Shards,
        decoder: &Decoder,
        run: &TrainRun<'_>,
    ) -> Result<(), TrainError> {
        if self.done == 0 || self.saved == Some(self.done) {
            return Ok(());
        }
        let collective = run.collective;
        agree(collective, self.log.as_ref().map_or(Ok(()), StepLog::sync))?;
        let (weights, optimizer) = (shards.weight_items(), zero::state_items(&self.optimizer, shards));
        let is_written = Cell::new(false);
        // All ranks gather both files, also where the first can't be written.
        let write = |paths: Option<(&Path, &Path)>| -> Result<TensorHashes, TrainError> {
            is_written.set(true);
            let file =
                |path: Option<&Path>, items| zero::write_gathered(collective, path, items, decoder.device());
            let weights = file(paths.map(|(weights, _)| weights), &weights[..]);
            let optimizer = file(paths.map(|(_, optimizer)| optimizer), &optimizer[..]);
            Ok(TensorHashes { weights: weights?, optimizer: optimizer? })
        };
        let saved = match is_first(collective) {
            true => {
                let (per_epoch, identity) = (self.plan.per_epoch, self.identity.clone());
                let state = CheckpointState::after(self.done, per_epoch, collective.parts(), identity);
                let state = CheckpointState { micro_batch_tokens: self.pass_bound, ..state };
                checkpoint::save_with(run.folder, &state, |weights, optimizer| {
                    write(Some((weights, optimizer)))
                })
            }
            false => Ok(()),
        };
        if !is_written.get() {
            write(None)?;
        }
        saved?;
        self.saved = Some(self.done);
        if is_first(collective) { checkpoint::retain(run.folder, run.keep_checkpoints) } else { Ok(()) }
    }
}
