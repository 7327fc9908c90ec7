//! The ids of the rows of one or several files, of which no two may be the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::RecordError;

/// The ids seen so far in one or several files, to find the second of two.
#[derive(Default)]
pub(crate) struct Ids {
    rows: HashMap<String, Identified>,
    files: Vec<PathBuf>,
}

/// A row with an id.
#[derive(Clone, Copy)]
struct Identified {
    /// The file's place among those read.
    file: usize,
    row: usize,
    /// Whether the id is the row's number, because the file has none.
    numbered: bool,
}

impl Ids {
    /// Notes the id of a row; `numbered` where it is the row's number.
    pub(crate) fn add(
        &mut self,
        path: &Path,
        row: usize,
        id: &str,
        numbered: bool,
    ) -> Result<(), RecordError> {
        if self.files.last().is_none_or(|last| last != path) {
            self.files.push(path.to_path_buf());
        }
        let this = Identified { file: self.files.len() - 1, row, numbered };
        let Some(first) = self.rows.insert(id.to_owned(), this) else { return Ok(()) };
        let (path, id) = (path.to_path_buf(), id.to_owned());
        Err(if first.file == this.file {
            let numbered = [first, this].into_iter().find(|one| one.numbered).map(|one| one.row);
            RecordError::Duplicate { path, row, first: first.row, id, numbered }
        } else {
            let first_path = self.files[first.file].clone();
            RecordError::DuplicateAcross { path, row, first_path, first: first.row, id }
        })
    }
}
