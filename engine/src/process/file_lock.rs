//! One process at a time: the operating system's lock on a file.
//!
//! The lock belongs to the open file, so a process that is killed leaves none behind; the file itself stays.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Held as long as this value lives.
#[derive(Debug)]
pub(crate) struct FileLock {
    // Never read: dropping it releases the lock.
    _file: File,
}

impl FileLock {
    /// Takes the lock on a file, made where it is absent; `None` while another process holds it. The file is opened for
    /// appending, since it has no content that could be lost, and a link is not followed.
    ///
    /// # Errors
    /// A file that cannot be opened or locked.
    pub(crate) fn take(path: &Path) -> io::Result<Option<Self>> {
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
        let file = options.open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(source),
        }
    }
}
