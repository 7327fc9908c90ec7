//! Opening files that others name: only regular ones, because a pipe would wait for ever and a device never end.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Opens a regular file for reading.
///
/// # Errors
/// What the system says; a folder is [`io::ErrorKind::IsADirectory`], and a pipe, a socket or a device
/// [`io::ErrorKind::InvalidInput`].
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Asked before it is opened: opening a pipe waits until somebody writes to it.
    refuse_special(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    refuse_special(&file.metadata()?)?;
    Ok(file)
}

/// The text of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open_regular`]; a file that is larger or not UTF-8 is [`io::ErrorKind::InvalidData`].
pub fn read_regular_text(path: &Path, most: u64) -> io::Result<String> {
    let bytes = read_regular(path, most)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::new(io::ErrorKind::InvalidData, format!("not UTF-8 from byte {at} on"))
    })
}

/// The bytes of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`read_regular_text`], but for UTF-8.
pub fn read_regular(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?;
    let too_large = || {
        let text = format!("larger than {} bytes, the most that such a file may have", most);
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if file.metadata()?.len() > most {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large()) } else { Ok(bytes) }
}

fn refuse_special(found: &std::fs::Metadata) -> io::Result<()> {
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        let text = "not a regular file (a pipe, a socket or a device); copy what it gives into a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn only_files_are_opened_and_only_to_their_bound() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe.jsonl");
        let name = CString::new(pipe.to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string; a pipe is made in a folder of this test.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!(open_regular(&pipe).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(open_regular(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(open_regular(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let file = folder.path().join("file");
        crate::atomic::write_bytes(&file, b"12345").unwrap();
        assert_eq!(read_regular_text(&file, 5).unwrap(), "12345");
        assert_eq!(read_regular_text(&file, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
        crate::atomic::write_bytes(&file, b"\xff").unwrap();
        assert_eq!(read_regular_text(&file, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
