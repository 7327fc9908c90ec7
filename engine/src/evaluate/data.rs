//! `--data NAME=PATH`: the files of the suites, by path or from a hub.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::suite_files::{SuiteFiles, every_file};
use super::table::{SUITES, SuiteEntry};
use crate::error::{EngineError, Result};
use crate::hub::Hub;
use crate::recipe::DataSource;

/// Endings of the files that are taken of a folder.
const ENDINGS: [&str; 5] = [".csv", ".jsonl", ".json", ".parquet", ".jsonl.gz"];

/// What `--data` says, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct SuiteData(BTreeMap<String, Vec<PathBuf>>);

impl SuiteData {
    /// Reads `NAME=PATH` and `NAME.KEY=PATH`; what a hub has is fetched.
    ///
    /// # Errors
    /// Another form, a name that no suite has, a name twice, a file that is not to be had.
    pub(crate) fn parse(written: &[String]) -> Result<Self> {
        let hub = Hub::default();
        let mut data = BTreeMap::new();
        for one in written {
            let wrong = |problem: String| EngineError::input(format!("--data {one}: {problem}"));
            let Some((name, place)) = one.split_once('=').filter(|(_, place)| !place.is_empty()) else {
                return Err(wrong("NAME=PATH is wanted, as in gsm8k=test.jsonl".to_owned()));
            };
            if !is_known(name) {
                return Err(wrong(format!(
                    "{name:?} names no file of a suite; known are {}",
                    known().join(", ")
                )));
            }
            let source = DataSource::parse(place, None).map_err(|want| wrong(format!("{want} is wanted")))?;
            let files = match &source {
                DataSource::File(path) if path.is_dir() && !name.ends_with(".punkt") => within(path)?,
                other => hub.data_files(other)?,
            };
            if data.insert(name.to_owned(), files).is_some() {
                return Err(wrong(format!("{name} is given twice")));
            }
        }
        Ok(Self(data))
    }

    /// The files of a suite.
    ///
    /// # Errors
    /// A suite without its own file.
    pub(super) fn of(&self, entry: &SuiteEntry) -> Result<SuiteFiles> {
        let own = |name: &String| name == entry.name || is_of(name, entry.name);
        let files: BTreeMap<String, Vec<PathBuf>> = self
            .0
            .iter()
            .filter(|(name, _)| own(name))
            .map(|(name, files)| (name.clone(), files.clone()))
            .collect();
        if !files.contains_key(entry.name) {
            return Err(EngineError::input(format!(
                "--suite {0}: no data; give --data {0}=PATH: {1}",
                entry.name, entry.data
            )));
        }
        Ok(SuiteFiles::new(entry.name, files))
    }
}

fn is_of(name: &str, suite: &str) -> bool {
    name.strip_prefix(suite).is_some_and(|rest| rest.starts_with('.'))
}

fn is_known(name: &str) -> bool {
    known().iter().any(|one| one == name)
}

fn known() -> Vec<String> {
    let names = |entry: &SuiteEntry| {
        let more = entry.more_data.iter().map(|(key, _)| format!("{}.{key}", entry.name));
        std::iter::once(entry.name.to_owned()).chain(more).collect::<Vec<_>>()
    };
    SUITES.iter().flat_map(names).collect()
}

/// The data files of a folder, by name.
fn within(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = every_file(folder)?;
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        ENDINGS.iter().any(|ending| name.ends_with(ending))
    });
    if files.is_empty() {
        let problem =
            format!("{}: no data files; a folder with {} is wanted", folder.display(), ENDINGS.join(", "));
        return Err(EngineError::input(problem));
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::table;

    #[test]
    fn what_data_says_is_checked_by_name() {
        for (written, wanted) in [
            (&["gsm8k"][..], "NAME=PATH is wanted"),
            (&["gsm8k="][..], "NAME=PATH is wanted"),
            (&["gsm=x.jsonl"][..], "\"gsm\" names no file of a suite; known are ifeval, ifeval.punkt"),
            (&["gsm8k.shots=x"][..], "names no file"),
            (&["gsm8k=a.jsonl", "gsm8k=b.jsonl"][..], "given twice"),
            (&["gsm8k=hf://x"][..], "hf://datasets/ORG/NAME"),
        ] {
            let written: Vec<String> = written.iter().map(|one| (*one).to_owned()).collect();
            let error = SuiteData::parse(&written).unwrap_err();
            assert!(error.exit_status() == 2 && error.to_string().contains(wanted), "{error}");
        }
        let entry = table::find(&["mt_bench".to_owned()]).unwrap()[0];
        let error = SuiteData::default().of(entry).err().unwrap().to_string();
        assert!(error.contains("--data mt_bench=PATH: FastChat's question.jsonl"), "{error}");
    }
}
