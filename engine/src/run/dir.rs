//! A run folder on disk, and nothing but its paths.
//!
//! ```text
//! runs/<name>/
//!   recipe.toml                    the resolved recipe, every key
//!   manifest.json                  recipe, input hashes, seed, versions, finished iterations
//!   run.lock                       locked by the process that works here; empty
//!   events.jsonl                   what happened, with seconds
//!   transcript.jsonl               where a service compares: every answer of its
//!   answers.jsonl                  where a judge, a pair-lm, a pair-ranker or a program compares: what it answered
//!   ranks/                         while several ranks work: where they meet (`ranks_place.rs`)
//!   start/                         the starting policy on the held-out prompts
//!     eval_samples.parquet
//!     eval_parts/                  while several ranks draw them
//!     eval.json
//!   iteration_01/
//!     sampling.json                device, rows, tokens a step and bytes of cache of sampling
//!     transcript.jsonl             where servers or a companion sample: every answer of theirs
//!     servers.json, probe.json     how far their log-probs are from ours; the text that tells their weights
//!     candidates/00000.parquet …   one file per shard of sample.shard_prompts prompts
//!     preferences/00000.parquet …  the same shards, scored
//!     pairs.parquet                every pair of the iteration; of a loss without pairs instead unpaired.parquet, best.parquet or
//!                                  groups.parquet
//!     log_prob_difference.json     sampler against trainer on these candidates
//!     train/                       metrics.jsonl; drift.json of gprl; checkpoints step_000200/ … until policy/ is written
//!     adapter/                     with train.lora: PEFT's layout
//!     policy/                      Hugging Face layout: config, safetensors, tokenizer, card (README.md)
//!     policy_files.json            SHA-256 of each file of policy/ and adapter/
//!     eval_samples.parquet         policy/ on the held-out prompts
//!     eval_wins.json               P(new ≻ old) of each of these answers
//!     eval.json
//!     summary.json                 the iteration's line in `show`; its presence means: finished
//! ```
//!
//! Every file and every folder with a name of its own is whole or absent.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use selfplay_records::{ExampleKind, atomic};

use crate::error::EngineError;
use crate::run::stages_left::IterationState;

/// A folder beside [`EvalDir::samples_file`].
pub(crate) const EVAL_PARTS: &str = "eval_parts";

/// Paths below a run folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunDir {
    root: PathBuf,
}

impl RunDir {
    /// The run folder at `root`, which need not exist.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `recipe.toml`.
    pub fn recipe_file(&self) -> PathBuf {
        self.root.join("recipe.toml")
    }

    /// `manifest.json`.
    pub fn manifest_file(&self) -> PathBuf {
        self.root.join("manifest.json")
    }

    /// `run.lock`.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("run.lock")
    }

    /// `events.jsonl`.
    pub fn events_file(&self) -> PathBuf {
        self.root.join("events.jsonl")
    }

    /// Where the starting policy's evaluation lies.
    pub fn start(&self) -> EvalDir {
        EvalDir { root: self.root.join("start") }
    }

    /// Iteration `number`, from 1.
    pub fn iteration(&self, number: usize) -> IterationDir {
        IterationDir { root: self.root.join(format!("iteration_{number:02}")) }
    }

    /// Where the evaluation of iteration `number` lies; 0 is the starting policy.
    pub fn evaluation(&self, number: usize) -> EvalDir {
        if number == 0 { self.start() } else { self.iteration(number).evaluation() }
    }

    /// Removes what killed processes left of unfinished files and folders; the lock must be held.
    ///
    /// # Errors
    /// When a folder cannot be listed or a file not removed.
    pub fn remove_temporaries(&self, iterations: usize) -> Result<(), EngineError> {
        let mut folders = vec![self.root.clone(), self.start().root, self.start().parts()];
        for iteration in (1..=iterations).map(|number| self.iteration(number)) {
            folders.extend([
                iteration.evaluation().parts(),
                iteration.candidates(),
                iteration.preferences(),
                iteration.train(),
                iteration.train().join("reference"),
                iteration.policy(),
                iteration.adapter(),
                iteration.root,
            ]);
        }
        for folder in folders {
            atomic::remove_temporaries(&folder)?;
        }
        for evaluation in (0..=iterations).map(|number| self.evaluation(number)) {
            if evaluation.samples_file().is_file() {
                evaluation.remove_parts();
            }
        }
        Ok(())
    }

    /// That none of the run's own files and folders is a link: what is written through one changes a file elsewhere.
    /// Other things in the folder are the user's.
    ///
    /// # Errors
    /// [`EngineError::BadFile`] with the first link; a folder that cannot be listed.
    pub fn refuse_links(&self) -> Result<(), EngineError> {
        for name in names_in(&self.root)? {
            let known = ["recipe.toml", "manifest.json", "run.lock", "events.jsonl", "start", "ranks"];
            let logs = ["transcript", "answers"];
            let is_log = logs.iter().any(|log| name.starts_with(log)) && name.ends_with(".jsonl");
            if known.contains(&name.as_str()) || is_log || name.starts_with("iteration_") {
                refuse_links_from(&self.root.join(name))?;
            }
        }
        Ok(())
    }

    /// That a run has begun here, and that [`RunDir::refuse_links`] finds nothing.
    ///
    /// # Errors
    /// [`EngineError::NotARun`]; the first link.
    pub fn check_begun(&self) -> Result<(), EngineError> {
        self.refuse_links()?;
        for (file, name) in [(self.manifest_file(), "manifest.json"), (self.recipe_file(), "recipe.toml")] {
            if !file.is_file() {
                return Err(EngineError::NotARun { directory: self.root.clone(), missing: name.to_owned() });
            }
        }
        Ok(())
    }

    /// Makes the folder and its parents.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self) -> Result<(), EngineError> {
        make_folder(&self.root)
    }
}

/// Where samples on the held-out prompts and what was measured on them lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvalDir {
    root: PathBuf,
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

    /// Whether both are there; `eval.json` is the later one.
    pub fn is_done(&self) -> bool {
        self.result_file().is_file()
    }
}

/// Paths of one iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IterationDir {
    root: PathBuf,
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

/// `00000.parquet`.
pub fn shard_name(shard: usize) -> String {
    format!("{shard:05}.parquet")
}

/// Makes a folder and its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_folder(path: &Path) -> Result<(), EngineError> {
    Ok(atomic::create_dir_all(path)?)
}

/// From a file or folder down.
fn refuse_links_from(path: &Path) -> Result<(), EngineError> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        // Another process may be working here; the lock is taken later.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(EngineError::io(path, "look at", source)),
    };
    if found.is_symlink() {
        let problem =
            "is a link; a run writes into its own folder only: put the file or folder itself in its place";
        return Err(EngineError::BadFile { path: path.to_path_buf(), problem: problem.to_owned() });
    }
    if found.is_dir() {
        names_in(path)?.iter().try_for_each(|name| refuse_links_from(&path.join(name)))?;
    }
    Ok(())
}

/// Numbers of the whole shards in a folder; none where the folder is absent.
///
/// # Errors
/// When the folder cannot be listed.
pub(crate) fn shards_in(folder: &Path) -> Result<BTreeSet<usize>, EngineError> {
    numbers_in(folder, ".parquet")
}

/// Numbers of the files in a folder that are called as shards are, with an ending; none where the folder is absent.
///
/// # Errors
/// When the folder cannot be listed.
pub(crate) fn numbers_in(folder: &Path, ending: &str) -> Result<BTreeSet<usize>, EngineError> {
    let number = |name: &String| match name.strip_suffix(ending) {
        Some(digits) if digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            digits.parse().ok()
        }
        _ => None,
    };
    Ok(names_in(folder)?.iter().filter_map(number).collect())
}

/// Names in a folder; none where it is absent.
fn names_in(folder: &Path) -> Result<Vec<String>, EngineError> {
    let failed = |source| EngineError::io(folder, "list the folder", source);
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_folder_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("none"));
        assert!(!run.start().is_done());
        assert_eq!(run.iteration(1).state().unwrap(), IterationState::default());
    }

    #[test]
    fn links_of_a_run_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("run"));
        run.refuse_links().unwrap();
        make_folder(&run.iteration(1).train()).unwrap();
        atomic::write_bytes(&folder.path().join("diary"), b"mine").unwrap();
        let link = |path: &Path| std::os::unix::fs::symlink(folder.path().join("diary"), path).unwrap();
        // The user's own, beside ours.
        link(&run.root().join("latest"));
        run.refuse_links().unwrap();
        let iteration = run.iteration(1);
        for path in [
            run.events_file(),
            run.lock_file(),
            iteration.train().join("metrics.jsonl"),
            iteration.candidates(),
            iteration.policy(),
        ] {
            link(&path);
            let error = run.refuse_links().unwrap_err();
            assert!(
                error.exit_status() == 2 && error.to_string().starts_with(&path.display().to_string()),
                "{error}"
            );
            std::fs::remove_file(&path).unwrap();
        }
        run.refuse_links().unwrap();
    }

    #[test]
    fn only_whole_things_count() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let iteration = run.iteration(1);
        assert_eq!(iteration.root(), folder.path().join("iteration_01"));
        for sub in [iteration.candidates(), iteration.checkpoint(200), iteration.checkpoint(400)] {
            make_folder(&sub).unwrap();
        }
        make_folder(&iteration.train().join(".step_000600.tmp")).unwrap();
        for name in ["00000.parquet", "00003.parquet", ".00001.parquet.tmp", "1.parquet", "00002.jsonl"] {
            atomic::write_bytes(&iteration.candidates().join(name), b"x").unwrap();
        }
        let state = iteration.state().unwrap();
        assert_eq!(state.candidates, BTreeSet::from([0, 3]));
        assert_eq!(state.checkpoint, Some(400));
        assert!(state.paired.is_empty() && !state.policy && state.preferences.is_empty());
    }
}
