//! Whether a stage command's output can be written, asked before hours are spent on what goes into it.

use std::path::{Path, PathBuf};

use selfplay_records::atomic;

use super::own_files::{OwnFolder, has_step_log};
use crate::error::{EngineError, Result};

/// The output that a command is to write; it can be put there.
#[derive(Clone, Debug)]
pub(in crate::commands) struct Output {
    pub(in crate::commands) path: PathBuf,
    pub(in crate::commands) force: bool,
    kind: OutputKind,
}

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutputKind {
    Rows,
    /// A training's folder, with the model in this one: `policy` or `preference_model`.
    Training(&'static str),
    Model,
}

impl Output {
    /// A file of rows.
    ///
    /// # Errors
    /// What stands in its place, without `force`; a place where no such file can be.
    pub(in crate::commands) fn rows(path: &Path, force: bool) -> Result<Self> {
        Self { path: path.to_path_buf(), force, kind: OutputKind::Rows }.checked()
    }

    /// A model's folder.
    ///
    /// # Errors
    /// As [`Output::rows`].
    pub(in crate::commands) fn model(path: &Path, force: bool) -> Result<Self> {
        Self { path: path.to_path_buf(), force, kind: OutputKind::Model }.checked()
    }

    /// A training's folder, with the model in `model_folder`.
    ///
    /// # Errors
    /// As [`Output::rows`].
    pub(in crate::commands) fn training(
        path: &Path,
        force: bool,
        model_folder: &'static str,
    ) -> Result<Self> {
        Self { path: path.to_path_buf(), force, kind: OutputKind::Training(model_folder) }.checked()
    }

    /// The folder that it is put into.
    pub(in crate::commands) fn folder(&self) -> PathBuf {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        }
    }

    fn checked(self) -> Result<Self> {
        self.check().map(|()| self)
    }

    /// Checks again: hours may have gone by since the command began.
    ///
    /// # Errors
    /// As [`Output::rows`].
    pub(in crate::commands) fn check(&self) -> Result<()> {
        match self.kind {
            OutputKind::Rows => check_rows(&self.path, self.force),
            OutputKind::Training(model_folder) => check_training(&self.path, self.force, model_folder),
            OutputKind::Model => check_model(&self.path, self.force),
        }
    }
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

/// That rows can be written to a file of this name.
fn check_rows(output: &Path, force: bool) -> Result<()> {
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

/// What is wrong with the output.
fn refused(output: &Path, what: impl std::fmt::Display) -> EngineError {
    EngineError::input(format!("--output {}: {what}", output.display()))
}

/// Whether a folder stands where a new one is wanted, which `force` allows to replace.
fn is_to_replace(output: &Path, force: bool) -> Result<bool> {
    if output.is_symlink() {
        return Err(refused(output, "is a link; name the folder itself, or a name that is free"));
    }
    check_output(output, force)?;
    if !output.exists() {
        return Ok(false);
    }
    if output.is_dir() { Ok(true) } else { Err(refused(output, "is a file; a folder is wanted")) }
}

/// That a training can put its folder there: nothing stands in its place, or, with `force`, what an earlier training
/// of this kind wrote and nothing else.
fn check_training(output: &Path, force: bool, model_folder: &'static str) -> Result<()> {
    if !is_to_replace(output, force)? {
        return Ok(());
    }
    let io = |source| EngineError::named(output, source);
    let foreign = OwnFolder::Trained(model_folder).foreign(output).map_err(io)?;
    let is_empty = std::fs::read_dir(output).map_err(io)?.next().is_none();
    let what = match foreign {
        Some(path) => format!("holds {}", path.strip_prefix(output).unwrap_or(&path).display()),
        None if is_empty || has_step_log(output) => return Ok(()),
        None => "has no metrics.jsonl of a training".to_owned(),
    };
    let remedy = format!(
        "{what}: --force replaces a folder only where a training with {model_folder}/ wrote all of it; name another \
         --output, or move the folder away"
    );
    Err(refused(output, remedy))
}

/// That a model's folder can be put there: nothing stands in its place, or, with `force`, a model's files and nothing else.
fn check_model(output: &Path, force: bool) -> Result<()> {
    if !is_to_replace(output, force)? {
        return Ok(());
    }
    match OwnFolder::Model.foreign(output).map_err(|source| EngineError::named(output, source))? {
        None => Ok(()),
        Some(path) => Err(refused(
            output,
            format!(
                "holds {}: --force replaces a folder only where all of it is a model's; name another --output, or move the \
             folder away",
                path.strip_prefix(output).unwrap_or(&path).display()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_that_exists_needs_force() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.jsonl");
        check_rows(&output, false).unwrap();
        selfplay_records::atomic::write_bytes(&output, b"x").unwrap();
        let error = check_rows(&output, false).unwrap_err();
        assert_eq!(error.exit_status(), 2);
        assert!(error.to_string().contains("--force"), "{error}");
        check_rows(&output, true).unwrap();
        assert!(check_rows(&folder.path().join("out.txt"), false).is_err());
        assert!(check_rows(&folder.path().join("none/out.jsonl"), false).is_err());
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
        let checked = |files: &[(&str, &str)], model_folder: &'static str| {
            let world = tempfile::tempdir().unwrap();
            let output = world.path().join("out");
            atomic::create_dir_all(&output).unwrap();
            fill(&output, files);
            check_training(&output, true, model_folder).map_err(|error| {
                assert_eq!(error.exit_status(), 2, "{error}");
                error.to_string()
            })
        };
        checked(&[], "policy").unwrap();
        checked(&[step, model[0], model[1]], "policy").unwrap();
        for (foreign, named) in [
            ("notes.txt", "holds notes.txt"),
            ("older_run/policy.bin", "holds older_run"),
            ("policy/notes.txt", "holds policy/notes.txt"),
            ("policy/inner/config.json", "holds policy/inner"),
            ("preference_model/config.json", "holds preference_model"),
        ] {
            let error = checked(&[step, model[0], model[1], (foreign, "mine")], "policy").unwrap_err();
            assert!(error.contains(named), "{error}");
        }
        // A model that somebody put there, and a preference model's training.
        assert!(checked(&model, "policy").unwrap_err().contains("no metrics.jsonl"));
        assert!(
            checked(&[("metrics.jsonl", "{}"), model[0]], "policy").unwrap_err().contains("no metrics.jsonl")
        );
        assert!(checked(&[step, model[0]], "preference_model").unwrap_err().contains("holds policy"));
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
                let error = check_training(&path(name), force, "policy").unwrap_err();
                assert!(error.exit_status() == 2 && error.to_string().contains("is a link"), "{error}");
            }
        }
        fill(world.path(), &[("file", "x")]);
        assert!(check_training(&path("file"), true, "policy").unwrap_err().to_string().contains("is a file"));
        link("real/rows.jsonl", "later.jsonl");
        check_rows(&path("later.jsonl"), false).unwrap();
        link("none/rows.jsonl", "lost.jsonl");
        let error = check_rows(&path("lost.jsonl"), false).unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("there is no folder"), "{error}");
    }
}
