//! A folder of files into a repository of the hub: one commit, large files before it by Git LFS.
//!
//! ```text
//! session     one repository: requests and what their statuses mean
//! repository  makes the repository and the branch      modes    which files are large
//! lfs         sends what is not there yet              commit   the commit, small files inside it
//! ```
//!
//! The interface is the hub's (`/api/repos/create`, `/api/models/ID/{preupload,commit,branch}`) and Git LFS' batch interface with
//! its `basic` and `multipart` transfers. What a server sends is data here too. **Nothing is sent twice**: the batch's answer
//! says which objects the hub has, so that a push that was cut goes on at the first file that is not there, and a part of a
//! large file is tried again alone.

mod commit;
mod lfs;
mod modes;
mod repository;
mod session;

use std::path::PathBuf;

use super::HubError;
use super::client::HubClient;
use super::environment;
use session::PushSession;

/// Where files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushTarget {
    /// `ORG/NAME`.
    pub(crate) id: String,
    /// A branch, made where it is not there; absent: `main`.
    pub(crate) revision: Option<String>,
    /// Of a repository that is made: whether others see it.
    pub(crate) private: bool,
    /// The commit's first line.
    pub(crate) message: String,
}

/// A file that is to be pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// Its name in the repository.
    pub(crate) name: String,
    pub(crate) content: FileContent,
    pub(crate) bytes: u64,
    /// Of its content, in hexadecimal.
    pub(crate) sha256: String,
}

/// Where a file's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FileContent {
    /// On disk.
    Path(PathBuf),
    /// Made or changed for the push.
    Bytes(Vec<u8>),
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushReport {
    /// The repository's page.
    pub(crate) url: String,
    /// Whether the repository was made.
    pub(crate) created: bool,
    /// Large files that were sent, and those that were there.
    pub(crate) sent: usize,
    pub(crate) there: usize,
    /// Files inside the commit.
    pub(crate) inline: usize,
    /// The commit, where the hub names it.
    pub(crate) commit: Option<String>,
}

/// Pushes the files as one commit; makes repository and branch where they are not there.
///
/// # Errors
/// [`HubError`]: HF_HUB_OFFLINE, no token, what the hub refuses, a connection that does not hold.
pub(crate) fn push(target: &PushTarget, files: &[LocalFile]) -> Result<PushReport, HubError> {
    let refused = |answer: &str, advice| HubError::PushRefused {
        what: target.id.clone(),
        answer: answer.to_owned(),
        advice,
    };
    if environment::is_offline() {
        return Err(refused("HF_HUB_OFFLINE is set, nothing was asked", "unset HF_HUB_OFFLINE to push"));
    }
    let client = HubClient::from_env()?;
    if !client.endpoint.is_authorised() {
        return Err(refused(
            "no token, nothing was asked",
            "set HF_TOKEN to a token that may write, or hf auth login",
        ));
    }
    let session = PushSession { client: &client, target };
    let created = repository::create(&session)?;
    repository::branch(&session)?;
    let large = modes::large_files(&session, files)?;
    let (large, small): (Vec<&LocalFile>, Vec<&LocalFile>) =
        files.iter().partition(|file| large.contains(&file.name));
    let sent = lfs::send_absent(&session, &large)?;
    let commit = commit::commit(&session, &small, &large)?;
    Ok(PushReport {
        url: session.page(),
        created,
        sent,
        there: large.len() - sent,
        inline: small.len(),
        commit,
    })
}

/// Whether text is `ORG/NAME` as a hub takes it.
pub(crate) fn is_repository_id(text: &str) -> bool {
    let plain = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 96
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !part.contains("--")
            && !part.contains("..")
            && !part.ends_with(['.', '-'])
    };
    text.split_once('/').is_some_and(|(org, name)| plain(org) && plain(name) && !name.ends_with(".git"))
}
