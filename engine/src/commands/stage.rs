//! What the stage commands share: their recipe, their output, their interruption.

use std::path::Path;

use selfplay_records::SkippedPair;
use serde_json::{Map, Value};

use crate::cli::{Common, StageArgs};
use crate::error::{EngineError, Result};
use crate::manifest::InputFile;
use crate::progress::{Progress, Verbosity};
use crate::recipe::{Override, Purpose, Recipe, load};
use crate::signals::StopFlag;

/// What a stage command works with.
pub(super) struct Stage {
    pub(super) recipe: Recipe,
    pub(super) progress: Progress,
    pub(super) stop: StopFlag,
    pub(super) iteration: u64,
    pub(super) force: bool,
}

impl Stage {
    /// Reads the recipe; `flags` are keys that the command's own flags set, and win over the file and `--set`.
    pub(super) fn new(args: &StageArgs, common: &Common, flags: Vec<Override>) -> Result<Self> {
        if args.iteration == 0 {
            return Err(EngineError::input("--iteration 0: iterations count from 1"));
        }
        let mut overrides = common.set.clone();
        overrides.extend(flags);
        let mut recipe = load(args.recipe.as_deref(), &overrides, Purpose::Stage)?;
        recipe.sample.iteration = args.iteration;
        let stop = StopFlag::of_process()
            .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
        Ok(Self {
            recipe,
            progress: Progress::new(common.verbosity()),
            stop,
            iteration: args.iteration,
            force: args.force,
        })
    }

    /// Says which pairs of a file give nothing to learn.
    pub(super) fn tell_skipped(&self, path: &Path, skipped: &[SkippedPair]) {
        if let Some(first) = skipped.first() {
            self.progress.line(format!(
                "{}: {} pairs left out, the first at row {} ({})",
                path.display(),
                skipped.len(),
                first.row,
                first.reason
            ));
        }
    }

    /// Ends the command between two pieces of work, when a signal has asked for it.
    pub(super) fn check_stop(&self, parts: &Path) -> Result<()> {
        match self.stop.requested() {
            None => Ok(()),
            Some(signal) => Err(EngineError::Stopped {
                signal,
                kept: format!(
                    "what is finished lies in {}, and the same command goes on from there",
                    parts.display()
                ),
            }),
        }
    }
}

impl Common {
    /// How much progress is told.
    pub fn verbosity(&self) -> Verbosity {
        match (self.quiet, self.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, 0) => Verbosity::Normal,
            (false, _) => Verbosity::Verbose,
        }
    }
}

/// `flag` as an override of `key`, where it was given.
pub(super) fn flag(key: &str, value: Option<&String>) -> Vec<Override> {
    // Quoted, so that a folder named 42 stays a text.
    value.map(|text| Override::new(key, toml::Value::String(text.clone()).to_string())).into_iter().collect()
}

/// That nothing stands where the output will, and that there is a folder to put it in.
pub(super) fn check_output(output: &Path, force: bool) -> Result<()> {
    if output.exists() && !force {
        return Err(EngineError::input(format!(
            "{}: exists already; name another --output, or --force to replace it",
            output.display()
        )));
    }
    if output.file_name().is_none() {
        return Err(EngineError::input(format!(
            "--output {}: the name of a file is wanted",
            output.display()
        )));
    }
    match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => Err(EngineError::input(
            format!("--output {}: there is no folder {}; make it first", output.display(), parent.display()),
        )),
        _ => Ok(()),
    }
}

/// That rows can be written to a file of this name, before hours are spent on making them.
pub(super) fn check_row_output(output: &Path, force: bool) -> Result<()> {
    check_output(output, force)?;
    let name = output.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let endings = [".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet"];
    if output.is_dir() || !endings.iter().any(|ending| name.ends_with(ending)) {
        return Err(EngineError::input(format!(
            "--output {}: the name of a file that ends in .jsonl or .parquet is wanted",
            output.display()
        )));
    }
    Ok(())
}

/// What a stage's results depend on, by name: sections of the recipe, files, folders.
#[derive(Default)]
pub(super) struct Fingerprint(Map<String, Value>);

impl Fingerprint {
    pub(super) fn new(stage: &Stage, command: &str, device: &Common) -> Self {
        let mut this = Self::default();
        this.set("command", command);
        this.set("selfplay", env!("CARGO_PKG_VERSION"));
        this.set("device", device.device.to_string());
        this.set("seed", stage.recipe.seed);
        this.set("--iteration", stage.iteration);
        this
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Every key of a section of the resolved recipe.
    pub(super) fn section(&mut self, recipe: &Recipe, name: &str) {
        for (key, value) in crate::manifest::flatten(&recipe.to_table()) {
            if key.split('.').next() == Some(name) {
                self.0.insert(key, value);
            }
        }
    }

    /// A file's content.
    pub(super) fn file(&mut self, key: &str, path: &Path) -> Result<()> {
        self.set(key, InputFile::of(path)?.sha256);
        Ok(())
    }

    /// A model folder's files.
    pub(super) fn model(&mut self, key: &str, folder: &Path) -> Result<()> {
        let files = InputFile::of_model(folder)?;
        let hashes: Vec<String> = files.into_iter().map(|file| file.sha256).collect();
        self.set(key, hashes.join(" "));
        Ok(())
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_exists_needs_force() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        check_row_output(&output, false).unwrap();
        selfplay_records::atomic::write_bytes(&output, b"x").unwrap();
        let error = check_row_output(&output, false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("--force"), "{error}");
        check_row_output(&output, true).unwrap();
        assert!(check_row_output(&folder.path().join("out.txt"), false).is_err());
        assert!(check_row_output(&folder.path().join("none/out.jsonl"), false).is_err());
    }

    #[test]
    fn a_flag_is_a_text_whatever_it_looks_like() {
        let one = flag("policy.model", Some(&"42\"".to_owned())).remove(0);
        assert_eq!(one.to_value(), toml::Value::String("42\"".into()));
        assert!(flag("policy.model", None).is_empty());
    }
}
