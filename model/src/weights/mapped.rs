//! A file of weights in the address space: nothing is read before it is asked for.

use std::path::Path;

use memmap2::Mmap;

use crate::error::ModelError;

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
