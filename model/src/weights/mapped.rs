//! A file of weights in the address space: nothing is read before it is asked for.

use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;

use crate::error::ModelError;

/// Lets go of the pages of some bytes that were read and are not wanted again: they count as the process's memory as long as
/// they are mapped, and a model would be held twice, as stored and as decoded. Read again, they come from the file.
pub(crate) fn release(map: &Mmap, bytes: &Range<usize>) {
    #[cfg(unix)]
    // SAFETY: the map is read-only and of a file, so that the pages have nothing that the file has not.
    let released = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    #[cfg(unix)]
    if let Err(error) = released {
        tracing::debug!("pages of weights stay mapped: {error}");
    }
    #[cfg(not(unix))]
    let _ = (map, bytes);
}

/// Maps the regular file at `path`. Errors: it cannot be opened (`remedy` ends the message), it is too short to be a
/// container of weights, it is a Git LFS pointer.
pub(crate) fn map(path: &Path, remedy: &str) -> Result<Mmap, ModelError> {
    let file =
        selfplay_records::open_regular(path).map_err(|error| ModelError::reading(path, error, remedy))?;
    let length = file.metadata().map_err(|error| ModelError::io(path, error))?.len();
    if length < 8 {
        let what = format!("it is only {length} bytes long");
        return Err(ModelError::input(path, what, super::AGAIN));
    }
    // SAFETY: the map is read-only; a file that another process cuts short meanwhile ends this one by SIGBUS, as
    // with every reader of safetensors and GGUF.
    let map = unsafe { Mmap::map(&file) }.map_err(|error| ModelError::io(path, error))?;
    if map.starts_with(b"version https://git-lfs") {
        let what = "it is a Git LFS pointer, not the weights";
        return Err(ModelError::input(path, what, "run `git lfs pull` in the model's folder"));
    }
    Ok(map)
}
