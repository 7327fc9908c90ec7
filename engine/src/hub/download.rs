//! One file of a repository, from the hub into the cache: whole and of the right hash, or not at all.

use std::io;

use selfplay_records::partial::PartialFile;

use super::HubError;
use super::address::{Address, percent_encoded};
use super::cache::{Repo, RepoCache, RepoKind};
use super::client::{HttpResponse, HubClient, Tries, TryFailure};
use super::digest::{Digest, is_commit};
use super::error::shown;
use super::exchange::TICK;

/// A try that receives this many bytes is not counted as failed when the connection breaks.
const PROGRESS: u64 = 1 << 20;

/// A file that is to be fetched.
pub(super) struct Download<'a> {
    pub(super) client: &'a HubClient,
    pub(super) cache: &'a RepoCache,
    pub(super) repo: &'a Repo,
    pub(super) commit: &'a str,
    /// A name that [`super::cache::is_plain_name`] has passed.
    pub(super) name: &'a str,
}

/// What the hub states about a file before sending it.
struct Metadata {
    digest: Digest,
    size: Option<u64>,
}

impl Download<'_> {
    /// Fetches the file, unless the cache has it.
    pub(super) fn run(&self) -> Result<(), HubError> {
        if self.cache.has(self.commit, self.name) {
            return Ok(());
        }
        let what = format!("{}/{}", self.repo.id, self.name);
        let metadata = self.client.persist(&what, || self.metadata(&what))?;
        if !self.is_there(&metadata) {
            let _lock = self.lock(&what, &metadata)?;
            // Another process may have fetched it while this one waited.
            if !self.is_there(&metadata) {
                self.fetch(&what, &metadata)?;
            }
        }
        self.cache.link(self.commit, self.name, &metadata.digest)
    }

    fn address(&self) -> Address {
        let kind = match self.repo.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "/datasets",
        };
        let (id, name) = (&self.repo.id, percent_encoded(self.name, "/"));
        self.client.endpoint.address.under(&format!("{kind}/{id}/resolve/{}/{name}", self.commit))
    }

    /// Requests the first byte: the response's headers, or those of its first redirect to another server, have the metadata.
    fn metadata(&self, what: &str) -> Result<Metadata, TryFailure> {
        let has_hash = |answer: &HttpResponse| answer.head.header("x-linked-etag").is_some();
        let leaves = |answer: &HttpResponse| {
            let location = answer.head.header("location").and_then(|location| answer.address.join(location));
            location.is_some_and(|next| !next.same_server(&answer.address))
        };
        let is_enough = |answer: &HttpResponse| has_hash(answer) || leaves(answer);
        let mut answer = self.client.follow(what, self.address(), Some("0-0"), is_enough)?;
        if answer.head.status == 416 {
            // An empty file has no first byte.
            answer = self.client.follow(what, self.address(), None, is_enough)?;
        }
        let head = &answer.head;
        if let Some(commit) = head.header("x-repo-commit") {
            if !is_commit(commit) {
                let problem =
                    format!("a commit that is none ({}): 40 hexadecimal digits are wanted", shown(commit));
                return Err(answer.wrong(what, problem).into());
            }
            if commit != self.commit {
                let problem = format!("a file of commit {commit}, and one of {} was asked for", self.commit);
                return Err(answer.wrong(what, problem).into());
            }
        }
        let Some(etag) = head.header("x-linked-etag").or(head.header("etag")) else {
            return Err(answer.wrong(what, "no ETag: the file's hash is wanted").into());
        };
        let Some(digest) = Digest::of_etag(etag) else {
            let problem =
                format!("an ETag that is no hash ({}): 40 or 64 hexadecimal digits are wanted", shown(etag));
            return Err(answer.wrong(what, problem).into());
        };
        let size = head.number("x-linked-size").or(match head.status {
            206 => head.content_range().and_then(|(_, total)| total),
            200 => head.number("content-length"),
            _ => None,
        });
        // Read to its end, so that the connection serves the next request too.
        if head.status == 206 {
            self.client.whole(what, &answer, 1 << 16)?;
        }
        Ok(Metadata { digest, size })
    }

    /// Whether the cache has the content, of the right size.
    fn is_there(&self, metadata: &Metadata) -> bool {
        let found = self.cache.blob(&metadata.digest).metadata();
        found.is_ok_and(|found| found.is_file() && metadata.size.is_none_or(|size| size == found.len()))
    }

    /// Waits until no other process fetches this content.
    fn lock(&self, what: &str, metadata: &Metadata) -> Result<std::fs::File, HubError> {
        let mut is_reported = false;
        loop {
            if let Some(lock) = self.cache.lock(&metadata.digest)? {
                return Ok(lock);
            }
            if !is_reported {
                tracing::info!("{what}: another process is fetching it: waiting");
                is_reported = true;
            }
            self.client.pause(what, TICK)?;
        }
    }

    fn fetch(&self, what: &str, metadata: &Metadata) -> Result<(), HubError> {
        let path = self.cache.incomplete(&metadata.digest)?;
        let failed = |source| HubError::Io { path: path.clone(), source };
        let mut part = PartialFile::open(&path).map_err(failed)?;
        match (metadata.size, part.length()) {
            (Some(size), 0) => tracing::info!("fetching {what}, {size} bytes"),
            (Some(size), done) => tracing::info!("fetching {what}, {size} bytes, from byte {done} on"),
            (None, _) => tracing::info!("fetching {what}"),
        }
        let mut tries = Tries::default();
        // A part that another process left may be damaged: then all of it is fetched once more.
        let mut may_begin_anew = true;
        loop {
            let before = part.length();
            if let Err(failure) = self.append(what, metadata, &mut part, &path) {
                let brought = part.length().saturating_sub(before);
                let rest = metadata.size.map_or(PROGRESS, |size| size.saturating_sub(before));
                if brought >= PROGRESS.min(rest.div_ceil(4)).max(1) {
                    tries.reset();
                }
                self.client.again(what, &mut tries, failure).inspect_err(|error| {
                    // A damaged part is no use to a later try; the first error is the one to report.
                    if matches!(error, HubError::Damaged { .. }) {
                        let _ = std::fs::remove_file(&path);
                    }
                })?;
                continue;
            }
            let found = self.hash(what, metadata, &mut part, &path)?;
            if found == metadata.digest.to_string() {
                return part.publish(&self.cache.blob(&metadata.digest)).map_err(failed);
            }
            part.clear().map_err(failed)?;
            if !may_begin_anew {
                part.remove().map_err(failed)?;
                let problem = format!("its hash is {found}, and the hub names {}", metadata.digest);
                return Err(HubError::Damaged { what: what.to_owned(), problem });
            }
            may_begin_anew = false;
            tracing::info!("{what}: came damaged: fetching it once more");
        }
    }

    /// Fetches what is not there yet.
    fn append(
        &self,
        what: &str,
        metadata: &Metadata,
        part: &mut PartialFile,
        path: &std::path::Path,
    ) -> Result<(), TryFailure> {
        let failed = |source| HubError::Io { path: path.to_path_buf(), source };
        let damaged =
            |problem: String| TryFailure::Passing(HubError::Damaged { what: what.to_owned(), problem }, None);
        match metadata.size {
            Some(size) if part.length() == size => return Ok(()),
            Some(size) if part.length() > size => part.clear().map_err(failed)?,
            _ => {}
        }
        let range = (part.length() > 0).then(|| format!("{}-", part.length()));
        let answer = self.client.follow(what, self.address(), range.as_deref(), |_| false)?;
        let begins_at = match answer.head.status {
            206 => answer.head.content_range().map_or(part.length(), |(first, _)| first),
            // The whole file, although a range was requested.
            200 => 0,
            _ => {
                part.clear().map_err(failed)?;
                return Err(damaged("the hub has no bytes after those that are here".to_owned()));
            }
        };
        if begins_at != part.length() {
            part.clear().map_err(failed)?;
            if begins_at != 0 {
                return Err(damaged(format!("the hub began at byte {begins_at}")));
            }
        }
        let total = match answer.head.status {
            206 => answer.head.content_range().and_then(|(_, total)| total),
            _ => answer.head.number("content-length"),
        };
        if let (Some(total), Some(size)) = (total, metadata.size)
            && total != size
        {
            part.clear().map_err(failed)?;
            return Err(damaged(format!("{total} bytes, and the hub names {size}")));
        }
        while let Some(bytes) = self.client.bytes(what, &answer)? {
            part.append(&bytes).map_err(failed)?;
            if let Some(size) = metadata.size.filter(|size| part.length() > *size) {
                part.clear().map_err(failed)?;
                return Err(damaged(format!("more than the {size} bytes that the hub names")));
            }
        }
        match metadata.size.or(total) {
            Some(size) if part.length() < size => {
                let problem = format!("the connection ended after {} of {size} bytes", part.length());
                let (what, server) = (what.to_owned(), answer.address.server());
                Err(TryFailure::Passing(HubError::Unreachable { what, server, problem }, None))
            }
            _ => Ok(()),
        }
    }

    /// The hash of what is there.
    fn hash(
        &self,
        what: &str,
        metadata: &Metadata,
        part: &mut PartialFile,
        path: &std::path::Path,
    ) -> Result<String, HubError> {
        let mut hasher = metadata.digest.hasher(part.length());
        let read = part.read(|bytes| {
            hasher.update(bytes);
            self.client.check_stop(what).map_err(io::Error::other)
        });
        self.client.check_stop(what)?;
        read.map_err(|source| HubError::Io { path: path.to_path_buf(), source })?;
        Ok(hasher.finish())
    }
}
