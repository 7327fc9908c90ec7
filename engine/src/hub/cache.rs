//! The cache that Hugging Face's libraries share, as a layout on disk.
//!
//! ```text
//! HF_HOME/hub/models--ORG--NAME/       or datasets--ORG--NAME
//!   blobs/HASH                         contents, by their ETag; HASH.incomplete while one comes
//!   refs/main                          the commit of a branch or tag when it was last requested
//!   snapshots/COMMIT/NAME              links into blobs
//! HF_HOME/hub/.locks/models--ORG--NAME/HASH.lock     held by the process that fetches HASH
//! ```
//!
//! Whatever a server sends is checked before it becomes part of a path here: [`Digest`], [`is_commit`],
//! [`is_plain_name`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use selfplay_records::{atomic, partial};

use super::HubError;
use super::digest::{Digest, is_commit};

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RepoKind {
    Model,
    Dataset,
}

/// A repository of a hub at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Repo {
    pub(super) kind: RepoKind,
    /// `ORG/NAME`.
    pub(super) id: String,
    pub(super) revision: String,
}

impl Repo {
    pub(super) fn new(kind: RepoKind, id: &str, revision: Option<&str>) -> Self {
        Self { kind, id: id.to_owned(), revision: revision.unwrap_or("main").to_owned() }
    }

    fn folder_name(&self) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }
}

/// A repository's folder of the cache.
pub(super) struct RepoCache {
    /// The folder of all repositories.
    pub(super) root: PathBuf,
    folder: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// The folder of `repo` under `root`; nothing is made.
    pub(super) fn new(root: &Path, repo: &Repo) -> Self {
        let name = repo.folder_name();
        Self { root: root.to_path_buf(), folder: root.join(&name), locks: root.join(".locks").join(name) }
    }

    /// The folder of a commit's files.
    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// The commit that a branch, tag or commit means here, where its snapshot is there.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        let commit = self.reference(revision).unwrap_or_else(|| revision.to_owned());
        (is_plain_part(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    fn reference(&self, revision: &str) -> Option<String> {
        let file = self.folder.join("refs").join(plain_path(revision)?);
        Some(fs::read_to_string(file).ok()?.trim().to_owned())
    }

    /// Whether a file of a commit is there.
    pub(super) fn has(&self, commit: &str, name: &str) -> bool {
        is_plain_part(commit) && is_plain_name(name) && self.snapshot(commit).join(name).is_file()
    }

    /// Names of all files of a commit that are there, with slashes.
    pub(super) fn names(&self, commit: &str) -> Result<Vec<String>, HubError> {
        let mut names = Vec::new();
        list(&self.snapshot(commit), "", &mut names)?;
        names.sort();
        Ok(names)
    }

    /// Where the content of this hash is, or will be.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.to_string())
    }

    /// Where the content of this hash grows; its folder is made.
    pub(super) fn incomplete(&self, digest: &Digest) -> Result<PathBuf, HubError> {
        let blobs = self.folder.join("blobs");
        make_folder(&blobs)?;
        Ok(blobs.join(format!("{digest}.incomplete")))
    }

    /// Takes the lock of a hash; `None` while another process has it.
    pub(super) fn lock(&self, digest: &Digest) -> Result<Option<File>, HubError> {
        make_folder(&self.locks)?;
        let path = self.locks.join(format!("{digest}.lock"));
        let failed = |source| HubError::Io { path: path.clone(), source };
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    /// Makes a blob a file of a commit.
    pub(super) fn link(&self, commit: &str, name: &str, digest: &Digest) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(name);
        make_folder(path.parent().unwrap_or(&path))?;
        let up = "../".repeat(2 + name.matches('/').count());
        let linked = partial::link_shared(Path::new(&format!("{up}blobs/{digest}")), &path);
        if linked.is_err() {
            // File systems without symbolic links get a copy, as from the Python library.
            atomic::copy(&self.blob(digest), &path)
                .map_err(|error| HubError::Io { path, source: io::Error::other(error) })?;
        }
        Ok(())
    }

    /// Notes the commit that a branch or tag stands at.
    pub(super) fn set_reference(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit || self.reference(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let Some(name) = plain_path(revision) else { return Ok(()) };
        let path = self.folder.join("refs").join(name);
        make_folder(path.parent().unwrap_or(&path))?;
        partial::write_shared(&path, commit.as_bytes())
            .map_err(|source| HubError::Io { path: path.clone(), source })
    }
}

/// Whether a name of a repository's listing names a file below the repository's folder, and nothing else.
pub(super) fn is_plain_name(name: &str) -> bool {
    !name.contains('\\') && !name.contains(char::is_control) && name.split('/').all(is_plain_part)
}

/// Whether a text is the name of a file or folder, and not a way to another place.
fn is_plain_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..") && !part.contains(['/', '\\']) && !part.contains(char::is_control)
}

/// A revision as the path of its file under `refs`; `None` for one that leads elsewhere.
fn plain_path(revision: &str) -> Option<&Path> {
    is_plain_name(revision).then(|| Path::new(revision))
}

/// Whether a revision is a commit, which never moves.
pub(super) fn is_fixed(revision: &str) -> bool {
    is_commit(revision)
}

fn make_folder(path: &Path) -> Result<(), HubError> {
    fs::create_dir_all(path).map_err(|source| HubError::Io { path: path.to_path_buf(), source })
}

/// Names of all files under `folder`, before which `prefix` is put. Links to folders are not followed.
fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) -> Result<(), HubError> {
    let io = |source: io::Error| HubError::Io { path: folder.to_path_buf(), source };
    for entry in fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().map_err(io)?.is_dir() {
            list(&entry.path(), &format!("{name}/"), names)?;
        } else {
            names.push(name);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_not_plain() {
        for name in ["config.json", "data/train-00000-of-00001.parquet", "a b/ü.jsonl", "..x", "x.."] {
            assert!(is_plain_name(name), "{name:?}");
        }
        for name in
            ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\nb", "a\u{1b}[2J", "a/"]
        {
            assert!(!is_plain_name(name), "{name:?}");
        }
    }

    #[test]
    fn the_layout_is_the_python_library_s() {
        let root = tempfile::tempdir().unwrap();
        let repo = Repo::new(RepoKind::Dataset, "org/name", Some("refs/pr/1"));
        let cache = RepoCache::new(root.path(), &repo);
        let commit = "c".repeat(40);
        let digest = Digest::of_etag(&"d".repeat(64)).unwrap();
        let incomplete = cache.incomplete(&digest).unwrap();
        partial::write_shared(&incomplete, b"x").unwrap();
        partial::PartialFile::open(&incomplete).unwrap().publish(&cache.blob(&digest)).unwrap();
        cache.link(&commit, "data/train.jsonl", &digest).unwrap();
        cache.set_reference("refs/pr/1", &commit).unwrap();
        let folder = root.path().join("datasets--org--name");
        let link = folder.join(format!("snapshots/{commit}/data/train.jsonl"));
        assert_eq!(fs::read_link(&link).unwrap(), Path::new(&format!("../../../blobs/{digest}")));
        assert_eq!(fs::read(&link).unwrap(), b"x");
        assert_eq!(fs::read_to_string(folder.join("refs/refs/pr/1")).unwrap(), commit);
        assert_eq!(cache.commit_of("refs/pr/1").as_deref(), Some(commit.as_str()));
        assert_eq!(cache.commit_of(&commit).as_deref(), Some(commit.as_str()));
        assert_eq!(cache.names(&commit).unwrap(), ["data/train.jsonl"]);
        assert!(cache.has(&commit, "data/train.jsonl") && !cache.has(&commit, "../refs/refs/pr/1"));
        assert_eq!(cache.commit_of("../../x"), None);
    }

    #[test]
    fn a_hash_is_fetched_by_one_process_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let cache = RepoCache::new(root.path(), &Repo::new(RepoKind::Model, "org/name", None));
        let digest = Digest::of_etag(&"d".repeat(40)).unwrap();
        let first = cache.lock(&digest).unwrap();
        assert!(first.is_some() && cache.lock(&digest).unwrap().is_none());
        drop(first);
        assert!(cache.lock(&digest).unwrap().is_some());
    }
}
