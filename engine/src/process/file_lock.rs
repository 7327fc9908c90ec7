//! One process at a time: the operating system's lock on a file.
//!
//! The lock belongs to the open file, so a process that is killed leaves none behind; the file itself stays.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Held as long as this value lives.
#[derive(Debug)]
pub(crate) struct FileLock {
    // Dropping it releases the lock.
    file: File,
}

impl FileLock {
    /// Takes the lock on a file, made where it is absent; `None` while another process holds it. The file is opened for
    /// appending, since it has no content that could be lost, and a link is not followed.
    ///
    /// Whoever holds the lock may remove the file: a lock on a file that is no longer at its path keeps nobody out, and is not taken.
    ///
    /// # Errors
    /// A file that cannot be opened or locked.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let lock = Self::take_once(path)?;
            if lock.as_ref().is_none_or(|lock| lock.is_at(path)) {
                return Ok(lock);
            }
        }
    }

    /// Whether the file that is locked is the one at this path.
    fn is_at(&self, path: &Path) -> bool {
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            let id = |found: std::fs::Metadata| (found.dev(), found.ino());
            let own = self.file.metadata().map(id).ok();
            own.is_some() && own == path.symlink_metadata().map(id).ok()
        }
        #[cfg(not(unix))]
        path.is_file()
    }

    fn take_once(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }
}
