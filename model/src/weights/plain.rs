//! A tensor that is stored as it is computed with.

use std::ops::Range;
use std::path::Path;

/// A tensor in a file as it is computed with.
pub(super) struct PlainTensor<'f> {
    pub(super) path: &'f Path,
    /// Length of the file when its header was read.
    pub(super) file_bytes: usize,
    pub(super) stored_name: &'f str,
    /// Its bytes in the file.
    pub(super) bytes: Range<usize>,
}
