//! What the stage commands share: their recipe, their output, their interruption.

use std::path::{Path, PathBuf};

use selfplay_model::template_clock as clock;
use selfplay_records::{SkippedPair, atomic};
use serde_json::{Map, Value};

use super::own_files::{OwnFolder, has_step_log};
use crate::error::{EngineError, Result};
use crate::flags::Common;
use crate::progress::Progress;
use crate::recipe::{Override, Purpose, Recipe, load};
use crate::run::input_files::InputFile;
use crate::signals::{StopFlag, StopSignal};

/// The time that chat templates read, in a command's settings.
const CLOCK_KEY: &str = "the time that templates read";

/// The flags that all stage commands take.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct StageArgs {
    /// The recipe whose own section, `[policy]` and top-level keys are read.
    #[arg(
        long,
        value_name = "FILE",
        help = "Read this recipe's own section, [policy] and the top-level keys"
    )]
    pub recipe: Option<PathBuf>,
    /// The iteration whose randomness to use
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub iteration: u64,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
}

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

    /// Holds the clock that chat templates read: at the time of an earlier command whose finished parts this one goes on
    /// from, else at the present. Before the first template is rendered.
    ///
    /// # Errors
    /// `SELFPLAY_CLOCK` is no time.
    pub(super) fn hold_clock(&self, output: &Path) -> Result<()> {
        let earlier = super::parts::setting(output, CLOCK_KEY);
        let time = match earlier.as_ref().and_then(Value::as_str).filter(|_| !self.force) {
            Some(time) => time.to_owned(),
            None => clock::now()?,
        };
        Ok(clock::fix(&time)?)
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
        self.stop.requested().map_or(Ok(()), |signal| Err(self.stopped(signal, parts)))
    }

    /// The error of a command that a signal has ended.
    pub(super) fn stopped(&self, signal: StopSignal, parts: &Path) -> EngineError {
        let kept =
            format!("what is finished lies in {}, and the same command goes on from there", parts.display());
        EngineError::Stopped { signal, kept }
    }
}

/// `flag` as an override of `key`, where it was given.
pub(super) fn flag(key: &str, value: Option<&String>) -> Vec<Override> {
    // Quoted, so that a folder named 42 stays a text.
    value.map(|text| Override::new(key, toml::Value::String(text.clone()).to_string())).into_iter().collect()
}

/// That nothing stands where the output will, and that there is a folder to put it in. What killed commands left
/// unfinished of this output is removed.
fn check_output(output: &Path, force: bool) -> Result<()> {
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
    check_parent(output, output)?;
    atomic::remove_leftovers(output);
    Ok(())
}

fn check_parent(output: &Path, target: &Path) -> Result<()> {
    match target.parent() {
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
    if output.exists() && !output.is_file() {
        return Err(EngineError::input(format!(
            "--output {}: is a device or a pipe, which cannot be replaced whole; the name of a file is wanted",
            output.display()
        )));
    }
    // A link stays a link: its file is written, and needs a folder as well.
    let target = atomic::target(output).map_err(|source| EngineError::named(output, source))?;
    check_parent(output, &target)
}

/// That a training can put its folder there: nothing stands in its place, or, with `force`, what an earlier training
/// of this kind wrote and nothing else. `model_folder` is `policy` or `preference_model`.
pub(super) fn check_folder_output(output: &Path, force: bool, model_folder: &'static str) -> Result<()> {
    let refused = |what: String| Err(EngineError::input(format!("--output {}: {what}", output.display())));
    if output.is_symlink() {
        return refused("is a link; name the folder itself, or a name that is free".to_owned());
    }
    check_output(output, force)?;
    if !output.exists() {
        return Ok(());
    }
    if !output.is_dir() {
        return refused("is a file; a folder is wanted".to_owned());
    }
    let io = |source| EngineError::named(output, source);
    let foreign = OwnFolder::Trained(model_folder).foreign(output).map_err(io)?;
    let is_empty = std::fs::read_dir(output).map_err(io)?.next().is_none();
    let what = match foreign {
        Some(path) => format!("holds {}", path.strip_prefix(output).unwrap_or(&path).display()),
        None if is_empty || has_step_log(output) => return Ok(()),
        None => "has no metrics.jsonl of a training".to_owned(),
    };
    refused(format!(
        "{what}: --force replaces a folder only where a training with {model_folder}/ wrote all of it; name another \
         --output, or move the folder away"
    ))
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
        // The day that templates read: `Stage::hold_clock` has taken up an earlier command's.
        if let Ok(time) = clock::now() {
            this.set(CLOCK_KEY, time);
        }
        this
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Every key of a section of the resolved recipe, and the content of the files that it names (models and prompts have
    /// their own places here).
    ///
    /// # Errors
    /// When such a file cannot be read.
    pub(super) fn section(&mut self, recipe: &Recipe, name: &str) -> Result<()> {
        for (key, value) in crate::run::manifest::flatten(&recipe.to_table()) {
            if key.split('.').next() == Some(name) {
                if key.ends_with(".chat_template")
                    && let Some(path) = value.as_str()
                {
                    self.file(&format!("the content of {key}"), Path::new(path))?;
                }
                self.0.insert(key, value);
            }
        }
        Ok(())
    }

    /// A file's content, every byte of it.
    pub(super) fn file(&mut self, key: &str, path: &Path) -> Result<()> {
        self.set(key, InputFile::of(path)?.sha256);
        Ok(())
    }

    /// A model folder's files, by name.
    pub(super) fn model(&mut self, key: &str, folder: &Path) -> Result<()> {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let files = InputFile::of_model(folder)?;
        let hashes: Map<String, Value> =
            files.into_iter().map(|file| (name(&file.path), Value::from(file.sha256))).collect();
        self.set(key, hashes);
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

    fn fill(folder: &Path, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = folder.join(name);
            atomic::create_dir_all(path.parent().unwrap()).unwrap();
            atomic::write_bytes(&path, text.as_bytes()).unwrap();
        }
    }

    #[test]
    fn force_replaces_what_a_training_wrote_and_nothing_else() {
        let step = ("metrics.jsonl", "{\"step\": 1, \"loss\": 0.5}\n");
        let model = [("policy/config.json", "{}"), ("policy/model.safetensors", "x")];
        let judge = |files: &[(&str, &str)], model_folder: &'static str| {
            let world = tempfile::tempdir().unwrap();
            let output = world.path().join("out");
            atomic::create_dir_all(&output).unwrap();
            fill(&output, files);
            check_folder_output(&output, true, model_folder).map_err(|error| {
                assert_eq!(error.exit_status(), 2, "{error}");
                error.to_string()
            })
        };
        judge(&[], "policy").unwrap();
        judge(&[step, model[0], model[1]], "policy").unwrap();
        for (foreign, named) in [
            ("notes.txt", "holds notes.txt"),
            ("older_run/policy.bin", "holds older_run"),
            ("policy/notes.txt", "holds policy/notes.txt"),
            ("policy/inner/config.json", "holds policy/inner"),
            ("preference_model/config.json", "holds preference_model"),
        ] {
            let error = judge(&[step, model[0], model[1], (foreign, "mine")], "policy").unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        // A model that somebody put there, and a preference model's training.
        assert!(judge(&model, "policy").unwrap_err().contains("no metrics.jsonl"));
        assert!(
            judge(&[("metrics.jsonl", "{}"), model[0]], "policy").unwrap_err().contains("no metrics.jsonl")
        );
        assert!(judge(&[step, model[0]], "preference_model").unwrap_err().contains("holds policy"));
    }

    #[test]
    fn links_and_odd_outputs_are_judged_before_the_work() {
        let world = tempfile::tempdir().unwrap();
        let path = |name: &str| world.path().join(name);
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, path(name)).unwrap();
        atomic::create_dir_all(&path("real")).unwrap();
        link("real", "folder_link");
        link("nowhere", "broken");
        for name in ["folder_link", "broken"] {
            for force in [false, true] {
                let error = check_folder_output(&path(name), force, "policy").unwrap_err();
                assert!(error.exit_status() == 2 && error.to_string().contains("is a link"), "{error}");
            }
        }
        fill(world.path(), &[("file", "x")]);
        assert!(
            check_folder_output(&path("file"), true, "policy").unwrap_err().to_string().contains("is a file")
        );
        link("real/rows.jsonl", "later.jsonl");
        check_row_output(&path("later.jsonl"), false).unwrap();
        link("none/rows.jsonl", "lost.jsonl");
        let error = check_row_output(&path("lost.jsonl"), false).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("there is no folder"), "{error}");
    }

    #[test]
    fn a_flag_is_a_text_whatever_it_looks_like() {
        let one = flag("policy.model", Some(&"42\"".to_owned())).remove(0);
        assert_eq!(one.to_value(), toml::Value::String("42\"".into()));
        assert!(flag("policy.model", None).is_empty());
    }
}
