//! Checkpoints: everything that a resumed run needs to end bit-identical.
//!
//! `step_NNNNNN/` holds `weights.safetensors` (every trainable parameter in f32: the masters), `optimizer.safetensors`
//! (the optimizer's state) and `state.json` with both files' SHA-256: one flipped bit of them is named when they are
//! read. The order of epochs is a function of the seed (`shuffle.rs`), so step and seed are all the random state there
//! is. The folder is made whole under
//! another name and renamed: it is there whole, or not at all.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use selfplay_model::weights::safetensors::{self, NamedTensor, TensorFile};
use selfplay_model::{Parameters, StoredDtype};
use selfplay_records::atomic;
use serde::{Deserialize, Serialize};

use crate::TrainError;
use crate::trained::trained;

/// The layout's version; raised when an old checkpoint can no longer be read.
const FORMAT: u32 = 1;
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const STATE: &str = "state.json";
const PREFIX: &str = "step_";

/// What a checkpoint must have in common with the run that resumes from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunIdentity {
    /// The run's seed.
    pub seed: u64,
    /// A hash of the examples in tokens.
    pub data: String,
    /// A hash of the settings.
    pub settings: String,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CheckpointState {
    /// The layout's version.
    pub format: u32,
    /// The selfplay that wrote it.
    pub version: String,
    /// Steps done.
    pub step: usize,
    /// The epoch of the next step, from 0.
    pub epoch: usize,
    /// The place of the next step in its epoch, from 0.
    pub position: usize,
    /// Threads of the run; another number may give other bits.
    pub threads: usize,
    /// Parts that each batch was cut into (one per rank); another number gives other last bits. One is left out.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub parts: usize,
    /// Tokens of a pass at most, where it is not the settings that say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub micro_batch_tokens: Option<usize>,
    /// SHA-256 of the tensors' files; an earlier selfplay wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<TensorHashes>,
    /// The run.
    #[serde(flatten)]
    pub identity: RunIdentity,
}

/// SHA-256 of a checkpoint's files, in hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TensorHashes {
    /// Of `weights.safetensors`.
    pub weights: String,
    /// Of `optimizer.safetensors`.
    pub optimizer: String,
}

fn one() -> usize {
    1
}

fn is_one(parts: &usize) -> bool {
    *parts == 1
}

impl CheckpointState {
    /// The state after `step` steps of a run with `steps_per_epoch` and batches of `parts`.
    pub fn after(step: usize, steps_per_epoch: usize, parts: usize, identity: RunIdentity) -> Self {
        let per_epoch = steps_per_epoch.max(1);
        Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            epoch: step / per_epoch,
            position: step % per_epoch,
            threads: rayon::current_num_threads(),
            parts,
            micro_batch_tokens: None,
            sha256: None,
            identity,
        }
    }
}

/// A checkpoint found in a run's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundCheckpoint {
    /// Steps done.
    pub step: usize,
    /// Its folder.
    pub path: PathBuf,
}

/// The checkpoints in `folder`, oldest first; an absent folder has none.
pub(crate) fn checkpoints(folder: &Path) -> Result<Vec<FoundCheckpoint>, TrainError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(TrainError::io(folder)(e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(TrainError::io(folder))?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let step = digits.filter(|d| d.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        if let Some(step) = step {
            found.push(FoundCheckpoint { step, path: entry.path() });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// The checkpoint with the most steps.
pub(crate) fn latest(folder: &Path) -> Result<Option<FoundCheckpoint>, TrainError> {
    Ok(checkpoints(folder)?.pop())
}

/// The steps of those checkpoints that go when `keep` stay; the newest always stays.
pub(crate) fn to_delete(steps: &[usize], keep: usize) -> Vec<usize> {
    let mut newest_first = steps.to_vec();
    newest_first.sort_unstable_by(|a, b| b.cmp(a));
    newest_first.dedup();
    let mut old = newest_first.split_off(keep.max(1).min(newest_first.len()));
    old.reverse();
    old
}

/// Deletes what [`to_delete`] names.
pub(crate) fn retain(folder: &Path, keep: usize) -> Result<(), TrainError> {
    let found = checkpoints(folder)?;
    let steps: Vec<usize> = found.iter().map(|checkpoint| checkpoint.step).collect();
    let old = to_delete(&steps, keep);
    for checkpoint in found.iter().filter(|checkpoint| old.contains(&checkpoint.step)) {
        std::fs::remove_dir_all(&checkpoint.path).map_err(TrainError::io(&checkpoint.path))?;
    }
    Ok(())
}

/// Writes a checkpoint; `optimizer` are the optimizer's tensors.
pub(crate) fn save(
    folder: &Path,
    state: &CheckpointState,
    parameters: &Parameters,
    optimizer: &[NamedTensor],
) -> Result<(), TrainError> {
    save_with(folder, state, |weights_file, optimizer_file| {
        Ok(TensorHashes {
            weights: write_tensors(weights_file, &trained_by_name(parameters))?,
            optimizer: write_tensors(optimizer_file, optimizer)?,
        })
    })
}

/// As [`save`], with the files of weights and of the optimizer's state written by `write`.
pub(crate) fn save_with(
    folder: &Path,
    state: &CheckpointState,
    write: impl FnOnce(&Path, &Path) -> Result<TensorHashes, TrainError>,
) -> Result<(), TrainError> {
    let path = folder.join(format!("{PREFIX}{:06}", state.step));
    // One of the same step is what a retention broke off in the middle of.
    atomic::replace_dir(&path, |temporary| {
        let sha256 = write(&temporary.join(WEIGHTS), &temporary.join(OPTIMIZER))?;
        let state = CheckpointState { sha256: Some(sha256), ..state.clone() };
        let path = temporary.join(STATE);
        let json = serde_json::to_vec_pretty(&state).map_err(|e| TrainError::io(&path)(e.into()))?;
        Ok::<(), TrainError>(atomic::write_bytes(&path, &json)?)
    })
}

/// Handles to what is trained.
pub(super) fn trained_by_name(parameters: &Parameters) -> Vec<NamedTensor> {
    trained(parameters)
        .map(|(_, parameter)| NamedTensor { name: parameter.name.clone(), tensor: parameter.full().clone() })
        .collect()
}

/// Reads a checkpoint's state, and its weights into `parameters`; `parts`: of the run's batches.
///
/// # Errors
/// [`TrainError::CheckpointMismatch`] when it was written by another run (nothing is changed then);
/// [`TrainError::Checkpoint`] when it is damaged (the parameters are then of no use).
pub(crate) fn load(
    checkpoint: &FoundCheckpoint,
    identity: &RunIdentity,
    parts: usize,
    parameters: &Parameters,
) -> Result<CheckpointState, TrainError> {
    let state = read_state(checkpoint, identity, parts)?;
    let files = TensorFiles::of(checkpoint, &state);
    TensorFile::open(&files.weights, files.weights_sha256)?.read_into(&trained_by_name(parameters))?;
    parameters.round_masters()?;
    Ok(state)
}

/// Where a checkpoint's tensors are, with the hashes that it has of them.
pub(crate) struct TensorFiles<'a> {
    pub weights: PathBuf,
    pub weights_sha256: Option<&'a str>,
    pub optimizer: PathBuf,
    pub optimizer_sha256: Option<&'a str>,
}

impl<'a> TensorFiles<'a> {
    /// Of a checkpoint whose state was read.
    pub fn of(checkpoint: &FoundCheckpoint, state: &'a CheckpointState) -> Self {
        let sha256 = state.sha256.as_ref();
        Self {
            weights: checkpoint.path.join(WEIGHTS),
            weights_sha256: sha256.map(|sha256| sha256.weights.as_str()),
            optimizer: checkpoint.path.join(OPTIMIZER),
            optimizer_sha256: sha256.map(|sha256| sha256.optimizer.as_str()),
        }
    }
}

/// Tokens of a pass at most, as the newest checkpoint in `folder` has recorded them; whether it is this run's shows when it is read.
///
/// # Errors
/// A folder that cannot be read.
pub(crate) fn recorded_pass(folder: &Path) -> Result<Option<usize>, TrainError> {
    let found = match latest(folder) {
        // Where a file is in the folder's place, whoever makes it says so.
        Err(TrainError::Io { source, .. }) if source.kind() == ErrorKind::NotADirectory => None,
        found => found?,
    };
    let Some(found) = found else { return Ok(None) };
    // What is wrong with the file is told by whoever reads all of it.
    let state = std::fs::read(found.path.join(STATE)).ok();
    let state: Option<CheckpointState> = state.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    Ok(state.and_then(|state| state.micro_batch_tokens))
}

/// Reads a checkpoint's state; `parts`: of the run's batches.
///
/// # Errors
/// As [`load`].
pub(crate) fn read_state(
    checkpoint: &FoundCheckpoint,
    identity: &RunIdentity,
    parts: usize,
) -> Result<CheckpointState, TrainError> {
    let path = checkpoint.path.join(STATE);
    let bytes = std::fs::read(&path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            TrainError::Checkpoint { path: checkpoint.path.clone(), problem: format!("{STATE} is absent") }
        }
        _ => TrainError::io(&path)(e),
    })?;
    let state: CheckpointState = serde_json::from_slice(&bytes).map_err(|e| TrainError::Checkpoint {
        path: checkpoint.path.clone(),
        problem: format!("{STATE}: {e}"),
    })?;
    if state.format != FORMAT || state.step != checkpoint.step {
        let problem = format!("format {} of step {}, expected format {FORMAT}", state.format, state.step);
        return Err(TrainError::Checkpoint { path: checkpoint.path.clone(), problem });
    }
    let differs = [
        ("seed", state.identity.seed != identity.seed),
        ("data", state.identity.data != identity.data),
        ("settings", state.identity.settings != identity.settings),
    ];
    let what: Vec<&str> = differs.iter().filter(|(_, differs)| *differs).map(|(what, _)| *what).collect();
    if !what.is_empty() {
        return Err(TrainError::CheckpointMismatch { path: checkpoint.path.clone(), what: what.join(", ") });
    }
    let numbers =
        [("threads", state.threads, rayon::current_num_threads()), ("parts of a batch", state.parts, parts)];
    for (what, then, now) in numbers.into_iter().filter(|(_, then, now)| then != now) {
        let path = checkpoint.path.display();
        tracing::warn!(
            "{path}: written with {then} {what}, now {now}: the last bits of the result may differ"
        );
    }
    Ok(state)
}

/// The optimizer's tensors of a checkpoint whose state was read.
pub(crate) fn optimizer_state(
    checkpoint: &FoundCheckpoint,
    state: &CheckpointState,
) -> Result<TensorFile, TrainError> {
    let files = TensorFiles::of(checkpoint, state);
    Ok(TensorFile::open(&files.optimizer, files.optimizer_sha256)?)
}

/// Writes tensors as f32, in the order given. Returns the file's SHA-256.
pub(crate) fn write_tensors(path: &Path, tensors: &[NamedTensor]) -> Result<String, TrainError> {
    let pairs: Vec<_> = tensors.iter().map(|named| (named.name.as_str(), &named.tensor)).collect();
    Ok(safetensors::write(path, &pairs, StoredDtype::F32)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stay() {
        assert_eq!(to_delete(&[200, 400, 600], 1), [200, 400]);
        assert_eq!(to_delete(&[600, 200, 400], 2), [200]);
        assert_eq!(to_delete(&[200], 0), [0usize; 0]);
        assert_eq!(to_delete(&[200, 400], 0), [200]);
        assert!(to_delete(&[], 3).is_empty());
        assert!(to_delete(&[1, 2], 5).is_empty());
    }

    #[test]
    fn only_whole_step_folders_are_checkpoints() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["step_000200", "step_1000000", "step_000400.tmp123", ".step_000500", "step_", "policy"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let steps: Vec<usize> = checkpoints(folder.path()).unwrap().iter().map(|c| c.step).collect();
        assert_eq!(steps, [200, 1_000_000]);
        assert_eq!(latest(folder.path()).unwrap().unwrap().step, 1_000_000);
        assert_eq!(latest(&folder.path().join("absent")).unwrap(), None);
        retain(folder.path(), 1).unwrap();
        assert!(!folder.path().join("step_000200").exists());
        assert!(folder.path().join("policy").exists());
    }

    #[test]
    fn the_state_names_the_next_place() {
        let identity = RunIdentity { seed: 42, data: "d".into(), settings: "s".into() };
        let state = CheckpointState::after(7, 3, 1, identity.clone());
        assert_eq!((state.step, state.epoch, state.position), (7, 2, 1));
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<CheckpointState>(&json).unwrap(), state);
        assert!(!json.contains("parts"));
        assert!(!json.contains("micro_batch_tokens"));
        let halved = CheckpointState { micro_batch_tokens: Some(512), ..state };
        let json = serde_json::to_string(&halved).unwrap();
        assert_eq!(serde_json::from_str::<CheckpointState>(&json).unwrap(), halved);
        let of_two = CheckpointState::after(7, 3, 2, identity);
        let json = serde_json::to_string(&of_two).unwrap();
        assert_eq!(serde_json::from_str::<CheckpointState>(&json).unwrap(), of_two);
    }
}
