//! A file without a name, for what does not fit into memory: it is gone with the process, however that ends.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::WriteError;
use crate::temporaries::temporary_sibling;

/// Makes a file without a name on the file system of `folder`, open for reading and writing.
///
/// # Errors
/// The error of the file system.
pub fn scratch_file(folder: &Path) -> Result<File, WriteError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    #[cfg(target_os = "linux")]
    if let Ok(file) = options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        return Ok(file);
    }
    // A file system without nameless files: the name is taken off at once.
    let failed = WriteError::at(folder, "make a file in");
    let path = temporary_sibling(&folder.join("scratch")).map_err(failed)?;
    let file = options.create_new(true).open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_scratch_file_holds_what_is_written_and_has_no_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = scratch_file(folder.path()).unwrap();
        file.write_all_at(b"abc", 5).unwrap();
        let mut read = [0; 3];
        file.read_exact_at(&mut read, 5).unwrap();
        assert_eq!(&read, b"abc");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(scratch_file(&folder.path().join("absent")).is_err());
    }
}
