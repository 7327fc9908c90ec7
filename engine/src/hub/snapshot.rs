//! A repository at one commit: its files' names, and the files themselves on this machine.

use std::path::PathBuf;

use serde_json::Value;

use super::HubError;
use super::address::percent_encoded;
use super::cache::{Repo, RepoCache, RepoKind, is_fixed, is_plain_name};
use super::client::{HubClient, TryFailure};
use super::digest::is_commit;
use super::download::Download;
use super::error::shown;

/// The largest listing that is read.
const LISTING: usize = 256 << 20;

/// A repository at one commit.
pub(super) struct Snapshot {
    pub(super) repo: Repo,
    pub(super) commit: String,
    /// Names of its files: of all of them from the hub, of those that are there from the cache.
    pub(super) names: Vec<String>,
}

impl Snapshot {
    /// The snapshot of a revision that is in the cache.
    pub(super) fn cached(cache: &RepoCache, repo: Repo) -> Result<Self, HubError> {
        let Some(commit) = cache.commit_of(&repo.revision) else {
            return Err(HubError::Offline { what: repo.id, cache: cache.root.clone() });
        };
        let names = cache.names(&commit)?;
        Ok(Self { repo, commit, names })
    }

    /// Requests the commit of a revision and the names of its files from the hub.
    pub(super) fn listed(client: &HubClient, repo: Repo) -> Result<Self, HubError> {
        let what = repo.id.clone();
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let revision = percent_encoded(&repo.revision, "");
        let address = client.endpoint.address.under(&format!("/api/{kind}/{what}/revision/{revision}"));
        let (commit, names) = client.persist(&what, || {
            let answer = client.follow(&what, address.clone(), None, |_| false)?;
            let body = client.whole(&what, &answer, LISTING)?;
            let wrong = |problem: String| TryFailure::Final(answer.wrong(&what, problem));
            let listing: Value = serde_json::from_slice(&body)
                .map_err(|_| wrong("a listing that is not JSON: is HF_ENDPOINT a hub?".to_owned()))?;
            let commit = listing.get("sha").and_then(Value::as_str).unwrap_or_default();
            if !is_commit(commit) {
                return Err(wrong(format!(
                    "a listing whose commit is none ({}): 40 hexadecimal digits are wanted",
                    shown(commit)
                )));
            }
            if is_fixed(&repo.revision) && commit != repo.revision {
                return Err(wrong(format!(
                    "a listing of commit {commit}, and {} was asked for",
                    repo.revision
                )));
            }
            let Some(files) = listing.get("siblings").and_then(Value::as_array) else {
                return Err(wrong("a listing without \"siblings\", the files".to_owned()));
            };
            let name = |file: &Value| file.get("rfilename").and_then(Value::as_str).map(str::to_owned);
            Ok((commit.to_owned(), files.iter().filter_map(name).collect()))
        })?;
        Ok(Self { repo, commit, names })
    }

    /// Fetches files of the snapshot; without a client they are those of the cache. Paths in the order of `names`.
    pub(super) fn fetch(
        &self,
        client: Option<&HubClient>,
        cache: &RepoCache,
        names: &[String],
    ) -> Result<Vec<PathBuf>, HubError> {
        // Every name is looked at before anything is written.
        if let Some((client, bad)) = client.zip(names.iter().find(|name| !is_plain_name(name))) {
            return Err(HubError::Answer {
                what: self.repo.id.clone(),
                server: client.endpoint.address.server(),
                problem: format!("a listing with a file name that is none ({})", shown(bad)),
            });
        }
        for name in names {
            match client {
                Some(client) => {
                    Download { client, cache, repo: &self.repo, commit: &self.commit, name }.run()?;
                }
                None if cache.has(&self.commit, name) => {}
                None => {
                    let what = format!("{}/{name}", self.repo.id);
                    return Err(HubError::Offline { what, cache: cache.root.clone() });
                }
            }
        }
        if client.is_some() {
            // After the files, so that a snapshot that is found by its branch offline has the files that were requested last.
            cache.set_reference(&self.repo.revision, &self.commit)?;
        }
        let folder = cache.snapshot(&self.commit);
        Ok(names.iter().map(|name| folder.join(name)).collect())
    }
}
