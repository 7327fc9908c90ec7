//! The files of one suite.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{EngineError, Result};
use crate::run::input_files::InputFile;

/// One suite's files: its own under the suite's name, others under their keys.
pub(super) struct SuiteFiles {
    suite: &'static str,
    files: BTreeMap<String, Vec<PathBuf>>,
}

impl SuiteFiles {
    /// Files by their names in `--data`.
    pub(super) fn new(suite: &'static str, files: BTreeMap<String, Vec<PathBuf>>) -> Self {
        Self { suite, files }
    }

    /// The suite's own files.
    pub(super) fn own(&self) -> &[PathBuf] {
        self.files.get(self.suite).map_or(&[], Vec::as_slice)
    }

    /// The files of a key, where they are given.
    pub(super) fn more(&self, key: &str) -> Option<&[PathBuf]> {
        self.files.get(&format!("{}.{key}", self.suite)).map(Vec::as_slice)
    }

    /// The one file or folder of a key, where it is given.
    ///
    /// # Errors
    /// Several files.
    pub(super) fn one(&self, key: &str) -> Result<Option<&Path>> {
        match self.more(key) {
            None => Ok(None),
            Some([only]) => Ok(Some(only)),
            Some(several) => {
                let problem = format!("--data {}.{key}: {} files; one is wanted", self.suite, several.len());
                Err(EngineError::input(problem))
            }
        }
    }

    /// Hashes of all files, by their names in `--data`.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn hashes(&self) -> Result<Map<String, Value>> {
        let mut hashes = Map::new();
        for (name, files) in &self.files {
            let files: Vec<PathBuf> = files
                .iter()
                .map(|file| if file.is_dir() { every_file(file) } else { Ok(vec![file.clone()]) })
                .collect::<Result<Vec<_>>>()?
                .concat();
            let of = |file: &PathBuf| Ok(Value::from(InputFile::of(file)?.sha256));
            hashes.insert(name.clone(), files.iter().map(of).collect::<Result<Vec<_>>>()?.into());
        }
        Ok(hashes)
    }
}

/// The files of a folder, by name.
pub(super) fn every_file(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |source| EngineError::named(folder, source);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
