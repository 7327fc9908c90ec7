//! The trial of one GPU of this machine: found where it was kept, else made in its turn, and kept.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use candle_core::Device;
use selfplay_model::ModelError;
use selfplay_model::gpu::{Gpu, HopperKernels};

use super::trial_cache::{KeptTrial, TrialCache, TrialKey, TrialOutcome};
use super::trial_process::{LIMIT, TrialProcess};
use super::trial_turn::{Turn, await_turn, lock_file};
use crate::device::DeviceChoice;
use crate::error::{EngineError, Result};
use crate::process::user_cache::user_cache;
use crate::ranks::rank::Rank;
use crate::signals::StopFlag;

/// What is waited for others that try: as long as one may take, its start and its end included.
const PATIENCE: Duration = Duration::from_secs(LIMIT.as_secs() + 30);

/// The trial of one GPU.
#[derive(Clone, Debug)]
pub(crate) struct MachineTrial {
    pub(super) key: TrialKey,
    pub(super) cache: TrialCache,
    pub(super) lock: PathBuf,
    pub(super) patience: Duration,
    pub(super) process: TrialProcess,
    /// `cuda:0`.
    pub(super) device: String,
    /// What a signal raises, asked for when there is something to stop.
    pub(super) stop: fn() -> io::Result<StopFlag>,
}

impl MachineTrial {
    /// Of a device; `None` where it is no GPU that has the kernels. It is kept in the user's cache, else in `others`.
    ///
    /// # Errors
    /// What the device says.
    pub(crate) fn of(device: &Device, others: Option<PathBuf>) -> Result<Option<Self>> {
        let gpu = Gpu::at(device).map_err(ModelError::from)?;
        let Some(gpu) = gpu.filter(Gpu::has_hopper) else { return Ok(None) };
        let name = DeviceChoice::of(device).to_string();
        let process = TrialProcess::of_this_program(&name)
            .map_err(|error| EngineError::failure(format!("the program's own file: {error}")))?;
        let own = user_cache().map(|cache| cache.join("selfplay/hopper"));
        Ok(Some(Self {
            key: TrialKey::of(gpu.name().map_err(ModelError::from)?),
            cache: TrialCache { folders: own.into_iter().chain(others).collect() },
            lock: lock_file(),
            patience: PATIENCE,
            process,
            device: name,
            stop: StopFlag::of_process,
        }))
    }

    /// One that was made before and still counts.
    pub(crate) fn kept(&self) -> Option<KeptTrial> {
        self.cache.find(&self.key)
    }

    /// The kernels that are right and faster by the trial that was kept, else by one that is made now. Why there are none is said in a
    /// line.
    ///
    /// # Errors
    /// What `watch` says; a signal.
    pub(super) fn taken(&self, watch: &mut dyn FnMut() -> Result<()>) -> Result<HopperKernels> {
        let outcome = match self.kept() {
            Some(kept) => kept.outcome,
            None => self.made(watch)?,
        };
        // Of the ranks of a machine one says it.
        let says = Rank::of_process().local_rank == 0;
        match outcome {
            TrialOutcome::Verdict(verdict) => {
                if says && verdict.has_wrong() {
                    tracing::warn!("Hopper's kernels, in this GPU's trial: {}", verdict.summary());
                }
                Ok(verdict.taken())
            }
            TrialOutcome::Failed(problem) => {
                if says {
                    let again = format!("selfplay --device {} doctor --try-kernels", self.device);
                    tracing::warn!(
                        "none of Hopper's kernels is used: their trial {problem}; to try again: {again}"
                    );
                }
                Ok(HopperKernels::NONE)
            }
        }
    }

    /// Makes the trial in its turn, unless another process has made it meanwhile.
    fn made(&self, watch: &mut dyn FnMut() -> Result<()>) -> Result<TrialOutcome> {
        self.in_turn(watch, |watch| match self.kept() {
            Some(kept) => Ok(kept.outcome),
            None => self.make(watch),
        })
    }

    /// Makes the trial in its turn, whatever was kept.
    ///
    /// # Errors
    /// A signal.
    pub(crate) fn made_anew(&self) -> Result<TrialOutcome> {
        self.in_turn(&mut || Ok(()), |watch| self.make(watch))
    }

    fn in_turn(
        &self,
        watch: &mut dyn FnMut() -> Result<()>,
        work: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<TrialOutcome>,
    ) -> Result<TrialOutcome> {
        let stop =
            (self.stop)().map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
        let mut watch = || {
            watch()?;
            let Some(signal) = stop.requested() else { return Ok(()) };
            let kept = "nothing was begun; the same command begins again".to_owned();
            Err(EngineError::Stopped { signal, kept })
        };
        match await_turn(&self.lock, self.patience, &mut watch)? {
            Turn::Own(_lock) => work(&mut watch),
            Turn::Late => {
                let seconds = self.patience.as_secs_f64();
                Ok(TrialOutcome::Failed(format!("has waited {seconds} s for other processes' trials")))
            }
        }
    }

    fn make(&self, watch: &mut dyn FnMut() -> Result<()>) -> Result<TrialOutcome> {
        tracing::info!(
            "trying Hopper's kernels on {}, once on this machine, for {} s at most; SELFPLAY_HOPPER=none leaves it out",
            self.key.gpu,
            self.process.limit.as_secs_f64()
        );
        let outcome = match self.process.run(watch)? {
            Ok(verdict) => TrialOutcome::Verdict(verdict),
            Err(problem) => TrialOutcome::Failed(problem),
        };
        let kept = self.cache.keep(&KeptTrial::now(self.key.clone(), outcome.clone()));
        if let TrialOutcome::Verdict(verdict) = &outcome {
            let place = kept.map_or("not kept".to_owned(), |path| format!("kept in {}", path.display()));
            tracing::info!("Hopper's kernels beside those of every GPU: {} ({place})", verdict.summary());
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests;
