//! Files of a shared cache: fetched in pieces, perhaps by several processes one after the other, and published whole.
//!
//! ```text
//! blobs/HASH.incomplete     grows by appending; a process that is killed leaves it, the next one goes on
//! blobs/HASH                its name once it is whole and fsynced
//! ```
//!
//! Unlike [`crate::atomic`], these operations are not counted for `SELFPLAY_FAULT`: a cache is not part of a run's
//! folder, and how much of it is there already must not move the place where a fault strikes.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file that grows until it is whole.
#[derive(Debug)]
pub struct PartialFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl PartialFile {
    /// Opens what an earlier process left at `path`, or an empty file. A link is refused: the file behind it is not
    /// ours to append to.
    ///
    /// # Errors
    /// `InvalidInput` where `path` is something else than a file; else the error of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            let problem = format!("{} is there and is not a file", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let length = file.metadata()?.len();
        Ok(Self { path: path.to_path_buf(), file, length })
    }

    /// Bytes that are there.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Hands all bytes that are there to `take`, in pieces, until it fails.
    ///
    /// # Errors
    /// What the file system or `take` said.
    pub fn read(&mut self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => take(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Empties the file.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        Ok(())
    }

    /// Removes the file.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }

    /// Fsyncs the file and gives it the name `target`, in the same folder.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn publish(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        rename(&self.path, target)
    }
}

/// Writes a small file of a cache whole: other processes see the old content or the new one.
///
/// # Errors
/// The error of the file system.
pub fn write_shared(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = sibling(path);
    let mut file = PartialFile::open(&temporary)?;
    let written = file.clear().and_then(|()| file.append(bytes)).and_then(|()| file.publish(path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Makes `link` a symbolic link to `target` in one step, replacing a link or a file of that name.
///
/// # Errors
/// The error of the file system; `Unsupported` where it has no symbolic links.
pub fn link_shared(target: &Path, link: &Path) -> io::Result<()> {
    let temporary = sibling(link);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => symlink(target, &temporary)?,
    }
    rename(&temporary, link)
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(not(unix))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[allow(clippy::disallowed_methods)] // What is renamed here is whole, and fsynced where it has content.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::rename(from, to)
}

/// `FOLDER/.NAME.tmp-PID`, as [`crate::atomic`] names its temporaries.
fn sibling(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".tmp-{}", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_goes_on_where_the_first_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let (part, whole) = (folder.path().join("x.incomplete"), folder.path().join("x"));
        PartialFile::open(&part).unwrap().append(b"one ").unwrap();
        let mut second = PartialFile::open(&part).unwrap();
        assert_eq!(second.length(), 4);
        second.append(b"two").unwrap();
        let mut seen = Vec::new();
        second.read(|piece| seen.write_all(piece)).unwrap();
        assert_eq!(seen, b"one two");
        second.publish(&whole).unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), b"one two");
        assert!(!part.exists());
    }

    #[test]
    fn a_cleared_file_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("x.incomplete");
        let mut file = PartialFile::open(&part).unwrap();
        file.append(b"wrong").unwrap();
        file.clear().unwrap();
        file.append(b"right").unwrap();
        assert_eq!(std::fs::read(&part).unwrap(), b"right");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let (precious, part) = (folder.path().join("precious"), folder.path().join("x.incomplete"));
        write_shared(&precious, b"mine").unwrap();
        link_shared(&precious, &part).unwrap();
        assert_eq!(PartialFile::open(&part).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
        // A link is replaced and not followed.
        write_shared(&part, b"new").unwrap();
        assert_eq!(std::fs::read(&precious).unwrap(), b"mine");
        assert_eq!(std::fs::read(&part).unwrap(), b"new");
    }
}
