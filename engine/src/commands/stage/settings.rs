//! `settings.json` of `OUTPUT.parts/`: what the finished parts depend on. The same command goes on from them only where all of it
//! is as it was.

use std::path::Path;

use selfplay_model::{ChatTemplate, template_clock as clock};
use serde_json::{Map, Value};

use super::parts;
use crate::error::Result;
use crate::inputs::policy::PolicySource;
use crate::recipe::Recipe;
use crate::run::input_files::InputFile;
use crate::run::manifest::flatten;

/// The time that chat templates read.
const CLOCK_KEY: &str = "the time that templates read";

/// Holds the clock that chat templates read: at the time of an earlier command whose finished parts this one goes on
/// from, else, and with `force`, at the present. To be called before the first template is rendered.
///
/// # Errors
/// `SELFPLAY_CLOCK` is no time.
pub(super) fn hold_clock(output: &Path, force: bool) -> Result<()> {
    let earlier = parts::setting(output, CLOCK_KEY);
    let time = match earlier.as_ref().and_then(Value::as_str).filter(|_| !force) {
        Some(time) => time.to_owned(),
        None => clock::now()?,
    };
    Ok(clock::fix(&time)?)
}

/// What a stage's results depend on, by name: sections of the recipe, files, folders.
#[derive(Default)]
pub(in crate::commands) struct PartsSettings(Map<String, Value>);

impl PartsSettings {
    pub(in crate::commands) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.0.insert(key.to_owned(), value.into());
    }

    /// Every key of a section of the resolved recipe, and the content of the files that it names (models and prompts have
    /// their own places here).
    ///
    /// # Errors
    /// When such a file cannot be read.
    pub(super) fn section(&mut self, recipe: &Recipe, name: &str) -> Result<()> {
        for (key, value) in flatten(&recipe.to_table()) {
            if key.split('.').next() == Some(name) {
                if key.ends_with(".chat_template")
                    && let Some(path) =
                        value.as_str().filter(|path| !ChatTemplate::is_shipped(Path::new(path)))
                {
                    self.file(&format!("the content of {key}"), Path::new(path))?;
                }
                self.0.insert(key, value);
            }
        }
        Ok(())
    }

    /// The day that templates read: [`hold_clock`] has taken up an earlier command's.
    pub(super) fn clock(&mut self) {
        if let Ok(time) = clock::now() {
            self.set(CLOCK_KEY, time);
        }
    }

    /// A file's content, every byte of it.
    pub(in crate::commands) fn file(&mut self, key: &str, path: &Path) -> Result<()> {
        self.set(key, InputFile::of(path)?.sha256);
        Ok(())
    }

    /// A model folder's files, by name.
    pub(in crate::commands) fn model(&mut self, key: &str, folder: &Path) -> Result<()> {
        self.files(key, InputFile::of_model(folder)?);
        Ok(())
    }

    /// Files, by name.
    pub(in crate::commands) fn files(&mut self, key: &str, files: Vec<InputFile>) {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let hashes: Map<String, Value> =
            files.into_iter().map(|file| (name(&file.path), Value::from(file.sha256))).collect();
        self.set(key, hashes);
    }

    /// The files of a policy and of the adapter over it.
    pub(in crate::commands) fn policy(&mut self, source: &PolicySource) -> Result<()> {
        self.model("--model", &source.folder)?;
        source.adapter.as_deref().map_or(Ok(()), |adapter| self.model("the adapter", adapter))
    }

    pub(super) fn into_map(self) -> Map<String, Value> {
        self.0
    }
}
