//! Models and data sets of a hub: HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE as everywhere.
//!
//! ```text
//! environment   the hub and the token          client    redirects, statuses, retries
//! address       servers, read strictly         exchange  one request, in a thread of its own
//! snapshot      a repository at one commit     download  one file, checked, resumed
//! cache         the layout that is shared      digest    SHA-256 and git's hash
//! split         which files are one split      pin       the commits that a run began with
//! named_file    one file by its path
//! body          what a request carries          upload    a folder of files into a repository
//! probe         whether hub and token work
//! ```
//!
//! Files land in the cache that Hugging Face's libraries share, so that what another program has fetched is not
//! fetched again. Offline, the cache's snapshot is taken as it is. **What a server sends is data**: it is checked
//! before it becomes a path, a header or a message.

mod address;
mod body;
mod cache;
mod client;
mod digest;
mod download;
mod environment;
mod error;
mod exchange;
mod named_file;
mod pin;
mod probe;
mod snapshot;
mod split;
mod upload;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use selfplay_records::{OnBadPrompt, ReadPrompts, RecordError, read_prompt_files, read_prompt_files_whole};

pub(crate) use environment::{TokenPlace, cache_folder, token_place};
pub use error::HubError;
pub use pin::HubPin;
pub(crate) use probe::{HubProbe, TokenAnswer, probe};
pub(crate) use upload::{FileContent, LocalFile, PushReport, PushTarget, is_repository_id, push};

use crate::recipe::{DataSource, ModelSource};
use cache::{Repo, RepoCache, RepoKind};
use client::HubClient;
use snapshot::Snapshot;

/// What a command takes from the hub: each repository is requested once, and all its files are of one commit.
#[derive(Default)]
pub struct Hub {
    /// Commits that a run began with.
    pins: Vec<HubPin>,
    client: OnceCell<HubClient>,
    snapshots: RefCell<BTreeMap<Repo, Rc<Snapshot>>>,
    used: RefCell<BTreeMap<String, HubPin>>,
}

/// A folder that holds a model's config.json; of a hub nothing else is fetched.
///
/// # Errors
/// [`HubError`] where the model cannot be fetched.
pub fn config_folder(source: &ModelSource) -> Result<PathBuf, HubError> {
    Hub::default().model_files(source, |name| name == "config.json" || name == "adapter_config.json")
}

/// The prompts of files that are one split. A row without `prompt_id` is numbered through all of them. Its other fields are
/// read only where `whole` says so.
///
/// # Errors
/// A row is wrong, or two rows have one id.
pub fn prompts(
    files: &[PathBuf],
    column: &str,
    on_bad: OnBadPrompt,
    whole: bool,
) -> Result<ReadPrompts, RecordError> {
    let read = if whole { read_prompt_files_whole } else { read_prompt_files };
    read(files, column, on_bad)
}

impl Hub {
    /// A hub whose sources are taken at the commits of `pins`; others at what their revision is now.
    pub fn pinned(pins: &[HubPin]) -> Self {
        Self { pins: pins.to_vec(), ..Self::default() }
    }

    /// The folder of a model's files, fetched where a hub has them. For `random:FOLDER`, the folder of config and
    /// tokenizer.
    ///
    /// # Errors
    /// [`HubError`] where the model cannot be fetched.
    pub fn model_folder(&self, source: &ModelSource) -> Result<PathBuf, HubError> {
        self.model_files(source, |name| {
            !name.contains('/')
                && (name.ends_with(".safetensors")
                    || name.ends_with(".json")
                    || name.ends_with(".jinja")
                    || name == "tokenizer.model")
        })
    }

    /// The files of a data source, fetched where a hub has them, in the order of their names.
    ///
    /// # Errors
    /// [`HubError`] where the data set or the split cannot be fetched.
    pub fn data_files(&self, source: &DataSource) -> Result<Vec<PathBuf>, HubError> {
        let DataSource::Hub { id, revision, split } = source else {
            let DataSource::File(path) = source else { return Ok(Vec::new()) };
            return Ok(vec![path.clone()]);
        };
        let address = match revision {
            Some(revision) => format!("hf://datasets/{id}@{revision}"),
            None => format!("hf://datasets/{id}"),
        };
        let repo = Repo::new(RepoKind::Dataset, id, revision.as_deref());
        let choose = |names: &[String]| split::files(&address, names, split.as_deref());
        let mut files = self.files(&source.to_string(), repo, choose)?;
        files.sort();
        Ok(files)
    }

    /// The commits and files that were taken, by source.
    pub fn used(&self) -> Vec<HubPin> {
        self.used.borrow().values().cloned().collect()
    }

    fn model_files(&self, source: &ModelSource, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, HubError> {
        let (id, revision) = match source {
            // A loaded recipe has looked every model up.
            ModelSource::Unset | ModelSource::Written(_) => return Err(HubError::Unset),
            ModelSource::Folder(folder) | ModelSource::Random(folder) => return Ok(folder.clone()),
            ModelSource::Hub { id, revision } => (id, revision),
        };
        let repo = Repo::new(RepoKind::Model, id, revision.as_deref());
        let choose =
            |names: &[String]| Ok(names.iter().filter(|name| wanted(name)).cloned().collect::<Vec<_>>());
        let files = self.files(&source.to_string(), repo, choose)?;
        // An adapter's repository has no configuration of a model.
        let named =
            |wanted: &str| files.iter().find(|file| file.file_name().is_some_and(|name| name == wanted));
        let config = named("config.json").or_else(|| named("adapter_config.json"));
        match config.and_then(|file| file.parent()) {
            Some(folder) => Ok(folder.to_path_buf()),
            None => Err(HubError::Lacks { what: id.clone(), wanted: "config.json".to_owned() }),
        }
    }

    /// Files of a repository on this machine.
    fn files(
        &self,
        source: &str,
        mut repo: Repo,
        choose: impl Fn(&[String]) -> Result<Vec<String>, HubError>,
    ) -> Result<Vec<PathBuf>, HubError> {
        let cache = RepoCache::new(&environment::cache_folder()?, &repo);
        let pin = self.pins.iter().find(|pin| pin.source == source);
        if let Some(pin) = pin
            && !pin.files.is_empty()
            && pin.files.iter().all(|name| cache.has(&pin.commit, name))
        {
            // Everything is in the cache: no request is made.
            self.used.borrow_mut().insert(source.to_owned(), pin.clone());
            let folder = cache.snapshot(&pin.commit);
            return Ok(pin.files.iter().map(|name| folder.join(name)).collect());
        }
        // Another split of a data set that the run has begun to use is of the same commit.
        let sibling = || self.pins.iter().find(|pin| pin.repository() == pin::repository(source));
        if let Some(pin) = pin.or_else(sibling) {
            repo.revision = pin.commit.clone();
        }
        let client = if environment::is_offline() { None } else { Some(self.client()?) };
        let snapshot = self.snapshot(client, &cache, repo)?;
        let names = choose(&snapshot.names)?;
        let files = snapshot.fetch(client, &cache, &names)?;
        let commit = snapshot.commit.clone();
        let taken = HubPin { source: source.to_owned(), commit, files: names };
        self.used.borrow_mut().insert(source.to_owned(), taken);
        Ok(files)
    }

    fn snapshot(
        &self,
        client: Option<&HubClient>,
        cache: &RepoCache,
        repo: Repo,
    ) -> Result<Rc<Snapshot>, HubError> {
        if let Some(known) = self.snapshots.borrow().get(&repo) {
            return Ok(Rc::clone(known));
        }
        let snapshot = Rc::new(match client {
            Some(client) => Snapshot::listed(client, repo.clone())?,
            None => Snapshot::cached(cache, repo.clone())?,
        });
        self.snapshots.borrow_mut().insert(repo, Rc::clone(&snapshot));
        Ok(snapshot)
    }

    fn client(&self) -> Result<&HubClient, HubError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = HubClient::from_env()?;
        Ok(self.client.get_or_init(|| client))
    }
}

#[cfg(test)]
mod tests {
    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn nothing_given_is_an_input_error() {
        let error = Hub::default().model_folder(&ModelSource::Unset).unwrap_err();
        assert_eq!(error.kind(), Kind::Input);
        assert!(error.to_string().contains("ORG/NAME"));
    }
}
