//! Paths of one iteration, and of what is measured on the held-out prompts; what of them is on disk.

use std::path::{Path, PathBuf};

use selfplay_records::ExampleKind;

use super::listing::{names_in, shard_name, shards_in};
use super::stages_left::IterationState;
use crate::error::EngineError;

/// A folder beside [`EvalDir::samples_file`].
pub(crate) const EVAL_PARTS: &str = "eval_parts";

/// Where samples on the held-out prompts and what was measured on them lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalDir {
    pub(super) root: PathBuf,
}

impl EvalDir {
    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `eval_samples.parquet`.
    pub fn samples_file(&self) -> PathBuf {
        self.root.join("eval_samples.parquet")
    }

    /// `eval_parts/`: finished shards of the answers while several ranks draw them.
    pub fn parts(&self) -> PathBuf {
        self.root.join(EVAL_PARTS)
    }

    /// `eval.json`.
    pub fn result_file(&self) -> PathBuf {
        self.root.join("eval.json")
    }

    /// `eval_wins.json`.
    pub fn wins_file(&self) -> PathBuf {
        self.root.join("eval_wins.json")
    }

    /// Removes the shards of answers, as far as that is possible: the whole file is there.
    pub(crate) fn remove_parts(&self) {
        let _ = std::fs::remove_dir_all(self.parts());
    }

    /// Whether the answers and what was measured on them are there.
    pub fn is_done(&self) -> bool {
        self.result_file().is_file() && self.samples_file().is_file()
    }
}

/// Paths of one iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IterationDir {
    pub(super) root: PathBuf,
}

impl IterationDir {
    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `sampling.json`.
    pub fn sampling_file(&self) -> PathBuf {
        self.root.join("sampling.json")
    }

    /// Folder of the candidates' shards.
    pub fn candidates(&self) -> PathBuf {
        self.root.join("candidates")
    }

    /// A shard of candidates, from 0.
    pub fn candidates_shard(&self, shard: usize) -> PathBuf {
        self.candidates().join(shard_name(shard))
    }

    /// Folder of the preferences' shards.
    pub fn preferences(&self) -> PathBuf {
        self.root.join("preferences")
    }

    /// What the iteration trains on: `pairs.parquet`, or the file of another kind of examples.
    pub fn rows_file(&self, kind: ExampleKind) -> PathBuf {
        self.root.join(format!("{}.parquet", kind.name()))
    }

    /// `train/drift.json`.
    pub fn drift_file(&self) -> PathBuf {
        self.train().join("drift.json")
    }

    /// `log_prob_difference.json`.
    pub fn log_prob_difference_file(&self) -> PathBuf {
        self.root.join("log_prob_difference.json")
    }

    /// The trainer's folder.
    pub fn train(&self) -> PathBuf {
        self.root.join("train")
    }

    /// The policy that the iteration ends with.
    pub fn policy(&self) -> PathBuf {
        self.root.join("policy")
    }

    /// The adapter that the iteration ends with.
    pub fn adapter(&self) -> PathBuf {
        self.root.join("adapter")
    }

    /// `policy_files.json`.
    pub fn policy_files(&self) -> PathBuf {
        self.root.join("policy_files.json")
    }

    /// Where the policy's evaluation lies.
    pub fn evaluation(&self) -> EvalDir {
        EvalDir { root: self.root.clone() }
    }

    /// `summary.json`.
    pub fn summary_file(&self) -> PathBuf {
        self.root.join("summary.json")
    }

    /// What is on disk.
    ///
    /// # Errors
    /// When a folder cannot be listed.
    pub fn state(&self) -> Result<IterationState, EngineError> {
        Ok(IterationState {
            candidates: shards_in(&self.candidates())?,
            preferences: shards_in(&self.preferences())?,
            paired: ExampleKind::ALL.into_iter().filter(|&kind| self.rows_file(kind).is_file()).collect(),
            checkpoint: self.checkpoints()?.last().copied(),
            adapter: self.adapter().is_dir(),
            policy: self.policy().is_dir(),
            evaluated: self.evaluation().is_done(),
            summarized: self.summary_file().is_file(),
        })
    }

    /// Steps of the training checkpoints, ascending.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn checkpoints(&self) -> Result<Vec<u64>, EngineError> {
        let mut steps: Vec<u64> = names_in(&self.train())?
            .iter()
            .filter_map(|name| name.strip_prefix("step_")?.parse().ok())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// Folder of the training checkpoint of a step.
    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.train().join(format!("step_{step:06}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn only_whole_things_count() {
        let folder = tempfile::tempdir().unwrap();
        let iteration = IterationDir { root: folder.path().join("iteration_01") };
        for sub in [iteration.candidates(), iteration.checkpoint(200), iteration.checkpoint(400)] {
            atomic::create_dir_all(&sub).unwrap();
        }
        atomic::create_dir_all(&iteration.train().join(".step_000600.tmp")).unwrap();
        for name in ["00000.parquet", "00003.parquet", ".00001.parquet.tmp", "1.parquet", "00002.jsonl"] {
            atomic::write_bytes(&iteration.candidates().join(name), b"x").unwrap();
        }
        let state = iteration.state().unwrap();
        assert_eq!(state.candidates, BTreeSet::from([0, 3]));
        assert_eq!(state.checkpoint, Some(400));
        assert!(state.paired.is_empty() && !state.policy && state.preferences.is_empty());
    }
}
