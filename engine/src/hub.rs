//! Models and data sets of a hub, by `hf-hub`: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE as everywhere.
//!
//! Files land in the hub's own cache, so that what another program has fetched is not fetched again. Offline, the
//! cache's snapshot is taken as it is.

use std::fs;
use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};
use selfplay_records::{OnBadPrompt, ReadPrompts, read_prompts};

use crate::error::EngineError;
use crate::recipe::{DataSource, ModelSource};

/// It is there and has nothing that is of use.
fn lacks(what: &str, wanted: &str) -> EngineError {
    EngineError::Input(format!("{what}: has no {wanted}"))
}

/// The hub does not give it; `what` is the id, and the file where it is one.
fn refused(what: &str, error: &ApiError) -> EngineError {
    EngineError::Input(format!(
        "{what}: no such folder, and the hub says: {}; name a folder that exists, or check the id, HF_TOKEN and HF_ENDPOINT",
        answer(error)
    ))
}

/// HF_HUB_OFFLINE is set and the cache has no snapshot.
fn offline(what: &str, cache: &Path) -> EngineError {
    EngineError::Input(format!(
        "{what}: no such folder, and not in the hub's cache {}; HF_HUB_OFFLINE is set, so nothing is fetched: \
         name a folder that exists, or fetch it once without HF_HUB_OFFLINE",
        cache.display()
    ))
}

/// The folder of a model's files, fetched where a hub has them. For `random:FOLDER`, the folder of config and
/// tokenizer.
///
/// # Errors
/// An error where the model is not to be had.
pub fn model_folder(source: &ModelSource) -> Result<PathBuf, EngineError> {
    match source {
        ModelSource::Unset => Err(EngineError::input(
            "no model given: name a model folder or a hub id ORG/NAME with its flag or in the recipe",
        )),
        ModelSource::Folder(folder) | ModelSource::Random(folder) => Ok(folder.clone()),
        ModelSource::Hub { id, revision } => {
            let wanted = |name: &str| {
                !name.contains('/')
                    && (name.ends_with(".safetensors")
                        || name.ends_with(".json")
                        || name.ends_with(".jinja")
                        || name == "tokenizer.model")
            };
            let snapshot = Snapshot::of(id, revision.as_deref(), RepoType::Model)?;
            let files = snapshot.fetch(wanted)?;
            let config = files.iter().find(|file| file.file_name().is_some_and(|name| name == "config.json"));
            match config.and_then(|file| file.parent()) {
                Some(folder) => Ok(folder.to_path_buf()),
                None => Err(lacks(id, "config.json")),
            }
        }
    }
}

/// A folder that holds a model's config.json; of a hub nothing else is fetched.
///
/// # Errors
/// An error where the model is not to be had.
pub fn config_folder(source: &ModelSource) -> Result<PathBuf, EngineError> {
    let ModelSource::Hub { id, revision } = source else { return model_folder(source) };
    let snapshot = Snapshot::of(id, revision.as_deref(), RepoType::Model)?;
    let files = snapshot.fetch(|name| name == "config.json")?;
    match files.first().and_then(|file| file.parent()) {
        Some(folder) => Ok(folder.to_path_buf()),
        None => Err(lacks(id, "config.json")),
    }
}

/// The files of a data source, fetched where a hub has them, in the order of their names.
///
/// # Errors
/// An error where the data set or the split is not to be had.
pub fn data_files(source: &DataSource) -> Result<Vec<PathBuf>, EngineError> {
    match source {
        DataSource::File(path) => Ok(vec![path.clone()]),
        DataSource::Hub { id, revision, split } => {
            let snapshot = Snapshot::of(id, revision.as_deref(), RepoType::Dataset)?;
            let data: Vec<String> = snapshot.names.iter().filter(|name| is_rows(name)).cloned().collect();
            let split = split.as_deref().unwrap_or("train");
            let mut chosen: Vec<String> =
                data.iter().filter(|name| is_of_split(name, split)).cloned().collect();
            if chosen.is_empty() && data.len() == 1 {
                chosen = data;
            }
            chosen.sort();
            if chosen.is_empty() {
                let wanted =
                    format!("Parquet or JSON Lines file of the split {split:?}; name another with :split");
                return Err(lacks(id, &wanted));
            }
            let mut files = snapshot.fetch(|name| chosen.iter().any(|one| one == name))?;
            files.sort();
            Ok(files)
        }
    }
}

/// The prompts of a data source. A row without `prompt_id` is numbered through all files of the source.
///
/// # Errors
/// An error where the source is not to be had or a row is wrong.
pub fn prompts(source: &DataSource, column: &str, on_bad: OnBadPrompt) -> Result<ReadPrompts, EngineError> {
    let mut all: Option<ReadPrompts> = None;
    for file in data_files(source)? {
        let mut read = read_prompts(&file, column, on_bad)?;
        let Some(all) = &mut all else {
            all = Some(read);
            continue;
        };
        let before = all.prompts.len() + all.skipped;
        for prompt in &mut read.prompts {
            // Ids that are row numbers were filled in by the reader, and start again in each file.
            if let Ok(row) = prompt.prompt_id.parse::<usize>() {
                prompt.prompt_id = (before + row).to_string();
            }
        }
        all.prompts.append(&mut read.prompts);
        all.skipped += read.skipped;
    }
    all.ok_or_else(|| lacks(&source.to_string(), "files"))
}

/// Where a snapshot's files come from.
enum Origin {
    Network(Box<Api>),
    Cache(PathBuf),
}

/// One revision of a repository.
struct Snapshot {
    repo: Repo,
    what: String,
    names: Vec<String>,
    origin: Origin,
}

impl Snapshot {
    /// Lists the revision, from the hub or, offline, from the cache.
    fn of(id: &str, revision: Option<&str>, kind: RepoType) -> Result<Self, EngineError> {
        let revision = revision.unwrap_or("main");
        let repo = Repo::with_revision(id.to_owned(), kind, revision.to_owned());
        let what = id.to_owned();
        let cache = Cache::from_env();
        if is_offline() {
            let folder = cached_snapshot(&cache, &repo).ok_or_else(|| offline(&what, cache.path()))?;
            let mut names = Vec::new();
            list(&folder, "", &mut names)?;
            return Ok(Self { repo, what, names, origin: Origin::Cache(folder) });
        }
        let refused = |error: ApiError| refused(&what, &error);
        let mut builder = ApiBuilder::from_env().with_progress(false).with_retries(2);
        if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()) {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(refused)?;
        let info = api.repo(repo.clone()).info().map_err(refused)?;
        let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(Self { repo, what, names, origin: Origin::Network(Box::new(api)) })
    }

    /// The files whose names are wanted, on this machine.
    fn fetch(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, EngineError> {
        let names = self.names.iter().filter(|name| wanted(name));
        match &self.origin {
            Origin::Cache(folder) => Ok(names.map(|name| folder.join(name)).collect()),
            Origin::Network(api) => {
                let repo = api.repo(self.repo.clone());
                names
                    .map(|name| {
                        tracing::info!("fetching {}/{name}", self.what);
                        repo.get(name).map_err(|error| match error {
                            ApiError::IoError(source) => EngineError::io(Path::new(name), "fetch", source),
                            error => refused(&format!("{}/{name}", self.what), &error),
                        })
                    })
                    .collect()
            }
        }
    }
}

/// The hub's answer in a line.
fn answer(error: &ApiError) -> String {
    let text = match error {
        ApiError::RequestError(error) => match error.as_ref() {
            // The address is long and holds nothing that the id does not.
            error if error.to_string().contains("status code 404") => "not found (404)".to_owned(),
            error if error.to_string().contains("status code 401") => {
                "not found, or not for you (401)".to_owned()
            }
            error => error.to_string(),
        },
        error => error.to_string(),
    };
    text.replace('\n', " ")
}

/// HF_HUB_OFFLINE, in the words that the Python library takes.
fn is_offline() -> bool {
    std::env::var("HF_HUB_OFFLINE")
        .is_ok_and(|value| matches!(value.to_ascii_uppercase().as_str(), "1" | "TRUE" | "YES" | "ON"))
}

/// `models--ORG--NAME/snapshots/COMMIT` of the cache.
fn cached_snapshot(cache: &Cache, repo: &Repo) -> Option<PathBuf> {
    let folder = cache.path().join(repo.folder_name());
    let commit = fs::read_to_string(folder.join("refs").join(repo.revision()))
        .map_or_else(|_| repo.revision().to_owned(), |commit| commit.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    snapshot.is_dir().then_some(snapshot)
}

/// Names of all files under `folder`, with slashes, before which `prefix` is put.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), EngineError> {
    let io = |source| EngineError::io(folder, "list the folder", source);
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let path = entry.path();
        if path.is_dir() {
            list(&path, &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

/// Whether rows can be read from a file of this name.
fn is_rows(name: &str) -> bool {
    let base = name.strip_suffix(".gz").unwrap_or(name);
    let config = matches!(name, "dataset_infos.json" | "dataset_info.json");
    !config && [".parquet", ".jsonl", ".json"].iter().any(|ending| base.ends_with(ending))
}

/// `data/train-00000-of-00002.parquet` is of the split `train`, `train_prefs.jsonl` is not.
fn is_of_split(name: &str, split: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let ends = |rest: &str| rest.starts_with('-') || rest.starts_with('.');
    file.strip_prefix(split).is_some_and(ends) || name.split('/').rev().skip(1).any(|folder| folder == split)
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn a_split_s_files_are_told_by_name() {
        assert!(is_of_split("data/train-00000-of-00002.parquet", "train"));
        assert!(is_of_split("train.jsonl", "train"));
        assert!(is_of_split("default/train/0000.parquet", "train"));
        assert!(!is_of_split("train_prefs.jsonl", "train"));
        assert!(!is_of_split("data/test-00000-of-00001.parquet", "train"));
        assert!(is_rows("a.json.gz") && !is_rows("README.md") && !is_rows("dataset_infos.json"));
    }

    #[test]
    fn nothing_given_is_an_input_error() {
        let error = model_folder(&ModelSource::Unset).unwrap_err();
        assert!(error.kind() == Kind::Input && error.to_string().contains("ORG/NAME"));
    }
}
