//! Whose fault an error is: what the process's exit status and the handling of a failure depend on.

use std::io;

/// Whose fault an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The user's input is wrong: a file, a flag, a key, a folder. Exit status 2.
    Input,
    /// The machine or the computation failed: a disk, memory, a device, numbers that are not finite. Exit status 1.
    Machine,
    /// A bug of selfplay. Exit status 1.
    Defect,
    /// The work was asked to stop, by a signal or by the caller. A signal's exit status is 128 + its number.
    Stopped,
}

impl Kind {
    /// Whose fault it is that a path which the user named cannot be used: theirs, where the path itself is wrong (nothing there, a folder,
    /// a pipe, a circle of links, a file that is closed to us or no such file inside); the machine's otherwise.
    pub fn of_named_path(source: &io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename => Self::Input,
            // The standard library has no stable name for a circle of links.
            _ if source.raw_os_error() == Some(libc::ELOOP) => Self::Input,
            _ => Self::Machine,
        }
    }
}

/// An error that knows whose fault it is. Every error type of the workspace implements this, by asking its sources.
pub trait HasKind {
    /// Whose fault it is.
    fn kind(&self) -> Kind;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_path_is_the_users_matter_and_a_broken_disk_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink("circle", &circle).unwrap();
        let long = folder.path().join("x".repeat(5000));
        for path in [circle, long, folder.path().join("absent"), "/dev/null/below".into()] {
            let error = std::fs::metadata(&path).unwrap_err();
            assert_eq!(Kind::of_named_path(&error), Kind::Input, "{error}");
        }
        for code in [libc::EIO, libc::ENOSPC, libc::EMFILE] {
            assert_eq!(Kind::of_named_path(&io::Error::from_raw_os_error(code)), Kind::Machine);
        }
    }
}
