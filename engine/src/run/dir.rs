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

use std::path::{Path, PathBuf};

use selfplay_records::atomic;

pub(crate) use super::iteration_dir::EVAL_PARTS;
pub use super::iteration_dir::{EvalDir, IterationDir};
use super::listing::names_in;
pub(crate) use super::listing::{numbers_in, shard_name, shards_in};
use crate::error::EngineError;

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
    /// [`EngineError::NotARun`], of a file in a folder's place too; the first link.
    pub fn check_begun(&self) -> Result<(), EngineError> {
        if self.root.is_dir() {
            self.refuse_links()?;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::stages_left::IterationState;

    #[test]
    fn an_absent_folder_holds_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path().join("none"));
        assert!(!run.start().is_done());
        assert_eq!(run.iteration(1).root(), folder.path().join("none/iteration_01"));
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
}
