//! Files that a command replaces only where they are its own of an earlier time.

use std::io::Read;
use std::path::Path;

use selfplay_records::open_regular;

use crate::error::{EngineError, Result};

/// What is looked at of a file that is there.
const HEAD: u64 = 1024;

/// That nothing lies at `output` but an earlier file of the same kind, whose head has `mark`. `wanted` ends the message: what the file is
/// not, and what to do.
///
/// # Errors
/// A folder, a file of another kind, one that does not read.
pub(super) fn check_replaced(output: &Path, mark: &str, wanted: &str) -> Result<()> {
    if output.is_dir() {
        return Err(EngineError::input(format!("{}: is a folder; name a file", output.display())));
    }
    if !output.exists() {
        return Ok(());
    }
    let failed = |source| EngineError::named(output, source);
    let mut head = Vec::new();
    open_regular(output).map_err(failed)?.take(HEAD).read_to_end(&mut head).map_err(failed)?;
    if String::from_utf8_lossy(&head).contains(mark) {
        return Ok(());
    }
    Err(EngineError::input(format!("{}: exists and is {wanted}", output.display())))
}

#[cfg(test)]
mod tests {
    use selfplay_records::atomic;

    use super::*;

    #[test]
    fn only_what_was_written_by_the_same_command_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let check =
            |name: &str| check_replaced(&folder.path().join(name), "<svg", "no drawing; name another file");
        check("absent").unwrap();
        for (name, text) in [("drawing", "<svg>"), ("thesis", "mine"), ("empty", "")] {
            atomic::write_bytes(&folder.path().join(name), text.as_bytes()).unwrap();
        }
        check("drawing").unwrap();
        for name in ["thesis", "empty", "."] {
            let error = check(name).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{error}");
        }
        let pipe = std::ffi::CString::new(folder.path().join("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the name is a C string; a pipe is made in a folder of this test.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let error = check("pipe").unwrap_err();
        assert!(error.exit_status() == 2 && error.to_string().contains("a pipe"), "{error}");
    }
}
