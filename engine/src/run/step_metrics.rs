//! A training's `metrics.jsonl`, read by those who only look: a run in work may be writing it.

use std::path::Path;

use selfplay_records::read_regular;
use selfplay_trainer::{EpochAccuracy, StepMetrics};
use serde::de::DeserializeOwned;

/// The whole lines of a folder's `metrics.jsonl`; none where it is absent.
pub(crate) fn steps(folder: &Path) -> Vec<StepMetrics> {
    lines(&folder.join("metrics.jsonl"))
}

/// The whole lines of a folder's `accuracy.jsonl`.
pub(crate) fn accuracies(folder: &Path) -> Vec<EpochAccuracy> {
    lines(&folder.join("accuracy.jsonl"))
}

fn lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = read_regular(path, u64::MAX).unwrap_or_default();
    text.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}
