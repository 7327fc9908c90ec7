//! `metrics.jsonl`: one line per optimizer step, the contract's keys.
//!
//! Lines are appended as steps end. A resumed run drops the lines behind its checkpoint first, so that
//! the file has each step once.

use std::io::Write;
use std::path::{Path, PathBuf};

use selfplay_records::atomic::{self, AppendLog};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// What one optimizer step did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// From 1.
    pub step: usize,
    /// Mean over the batch, before the step.
    pub loss: f64,
    /// Global norm before clipping.
    pub grad_norm: f64,
    /// The rate that the step used.
    pub learning_rate: f64,
    /// Mean β·Δ of the chosen responses (SFT: null; Bradley–Terry: mean reward; GPM: null).
    pub reward_chosen: Option<f64>,
    /// The same of the rejected responses.
    pub reward_rejected: Option<f64>,
    /// Mean summed log-prob of the chosen responses, in nats (SFT: of the responses).
    pub logp_chosen: Option<f64>,
    /// The same of the rejected responses.
    pub logp_rejected: Option<f64>,
    /// Tokens of the batch, a pair's prompt counted once.
    pub tokens: usize,
    /// Wall-clock seconds of the step.
    pub seconds: f64,
    /// Mean divergence from the reference over the batch's tokens, of a loss over groups, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Share of the batch's tokens whose ratio is clipped, of a loss over groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clipped: Option<f64>,
    /// Mean loss over the held-out examples after the step, where it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    /// Tokens of a pass at most, where it is not `micro_batch_tokens` that says so: with `auto`, or after a device had not the memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
}

/// Accuracy on held-out comparisons after an epoch; a line of `accuracy.jsonl`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochAccuracy {
    /// The optimizer step after which it was measured.
    pub step: usize,
    /// From 1.
    pub epoch: usize,
    /// Share of held-out comparisons whose chosen response scores higher; a score of 0 counts half, a labelled tie not at all.
    pub accuracy: f64,
    /// Held-out comparisons.
    pub comparisons: usize,
    /// Mean −log σ(s) of their labels, without margins, in nats; absent in files of older versions.
    #[serde(default)]
    pub loss: Option<f64>,
    /// Expected calibration error over ten bins of the confidence max(P, 1 − P); absent in files of older versions.
    #[serde(default)]
    pub ece: Option<f64>,
}

/// A line of a log that is kept per step.
pub(crate) trait StepLine: Serialize + DeserializeOwned {
    /// The step it belongs to.
    fn step(&self) -> usize;
}

impl StepLine for StepMetrics {
    fn step(&self) -> usize {
        self.step
    }
}

impl StepLine for EpochAccuracy {
    fn step(&self) -> usize {
        self.step
    }
}

/// A JSON Lines file that grows by a line and is cut back on resume.
pub(crate) struct StepLog {
    path: PathBuf,
    log: AppendLog,
}

impl StepLog {
    /// Opens `path` with the lines up to `last_step` kept.
    pub(crate) fn open<T: StepLine>(path: &Path, last_step: usize) -> Result<Self, TrainError> {
        keep_lines::<T>(path, last_step)?;
        let log = AppendLog::open(path)?;
        Ok(Self { path: path.to_owned(), log })
    }

    /// Waits until the lines are on the disk: a checkpoint promises the lines up to its step.
    pub(crate) fn sync(&self) -> Result<(), TrainError> {
        Ok(self.log.sync()?)
    }

    /// Appends one line.
    pub(crate) fn append<T: StepLine>(&mut self, line: &T) -> Result<(), TrainError> {
        let text = serde_json::to_string(line).map_err(|e| TrainError::io(&self.path)(e.into()))?;
        Ok(self.log.append_line(&text)?)
    }
}

/// The lines of a log; an absent file has none, a broken last line (a kill in its middle) is left out.
pub(crate) fn read_lines<T: StepLine>(path: &Path) -> Result<Vec<T>, TrainError> {
    let text = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(path)(e)),
    };
    Ok(text.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

/// Rewrites the file without broken lines and without those after `last_step`; nothing is written where
/// nothing goes.
fn keep_lines<T: StepLine>(path: &Path, last_step: usize) -> Result<(), TrainError> {
    let mut kept = Vec::new();
    for line in read_lines::<T>(path)?.iter().filter(|line| line.step() <= last_step) {
        serde_json::to_writer(&mut kept, line).map_err(|e| TrainError::io(path)(e.into()))?;
        kept.push(b'\n');
    }
    match std::fs::read(path) {
        Ok(bytes) if bytes != kept => Ok(atomic::write(path, |w: &mut dyn Write| w.write_all(&kept))?),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: usize) -> StepMetrics {
        StepMetrics {
            step,
            loss: 0.1 + step as f64,
            grad_norm: 1.0,
            learning_rate: 5e-7,
            reward_chosen: None,
            reward_rejected: Some(-0.25),
            logp_chosen: None,
            logp_rejected: None,
            tokens: 7,
            seconds: 0.5,
            kl: None,
            clipped: None,
            val_loss: None,
            micro_batch_tokens: None,
        }
    }

    #[test]
    fn keys_are_the_contracts() {
        let text = serde_json::to_string(&line(1)).unwrap();
        let keys: Vec<&str> = text.split('"').skip(1).step_by(2).collect();
        let contract = ["step", "loss", "grad_norm", "learning_rate", "reward_chosen", "reward_rejected"];
        assert_eq!(keys[..6], contract);
        assert_eq!(keys[6..], ["logp_chosen", "logp_rejected", "tokens", "seconds"]);
    }

    #[test]
    fn a_resumed_log_has_each_step_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = StepLog::open::<StepMetrics>(&path, 0).unwrap();
        for step in 1..=5 {
            log.append(&line(step)).unwrap();
        }
        drop(log);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"step\":6,\"lo");
        atomic::write_bytes(&path, &torn).unwrap();
        let mut log = StepLog::open::<StepMetrics>(&path, 3).unwrap();
        log.append(&line(4)).unwrap();
        drop(log);
        let steps: Vec<usize> = read_lines::<StepMetrics>(&path).unwrap().iter().map(|l| l.step).collect();
        assert_eq!(steps, [1, 2, 3, 4]);
        assert_eq!(read_lines::<StepMetrics>(&path).unwrap()[2], line(3));
    }
}
