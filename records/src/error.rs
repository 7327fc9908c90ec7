//! What can be wrong with files of rows. Rows count from 0, blank lines left out.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::shown::{cut, quoted};
use crate::{HasKind, Kind, WriteError};

/// Why rows could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file could not be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// A file could not be written; the old one, if any, is as it was.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The file's name does not say what is in it.
    #[error("{}: unknown ending, expected .jsonl, .json, .jsonl.gz, .json.gz or .parquet (.tsv and .csv are read, not written)", path.display())]
    Ending {
        /// The file.
        path: PathBuf,
    },
    /// There is no row.
    #[error("{}: no rows, expected at least one row of {noun}", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
        /// What its rows would have been.
        noun: &'static str,
    },
    /// A row is not a JSON object.
    #[error("{}: row {row}: {problem}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A field of a row is missing or not what it should be.
    #[error("{}: row {row}: {problem}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// The field, what is wrong and what would be right.
        problem: FieldProblem,
    },
    /// Two rows have one id.
    #[error(
        "{}: row {row}: field \"prompt_id\": expected an id of its own, found {:?} again (row {first}){}",
        path.display(), cut(id, 200), without_id(*numbered)
    )]
    Duplicate {
        /// The file.
        path: PathBuf,
        /// The later row, from 0.
        row: usize,
        /// The earlier row, from 0.
        first: usize,
        /// The id of both.
        id: String,
        /// That of the two which has no id in the file and takes its row number.
        numbered: Option<usize>,
    },
    /// Rows of two files of one split have one id.
    #[error(
        "{}: row {row}: field \"prompt_id\": expected an id of its own, found {id:?} again (row {first} of {})",
        path.display(), first_path.display()
    )]
    DuplicateAcross {
        /// The file of the later row.
        path: PathBuf,
        /// The later row, from 0.
        row: usize,
        /// The file of the earlier row.
        first_path: PathBuf,
        /// The earlier row, from 0.
        first: usize,
        /// The id of both.
        id: String,
    },
    /// The rows are of no layout that is known.
    #[error("{}: row {row}: unknown layout of {noun}: found the fields {found}; expected {expected}", path.display())]
    Layout {
        /// The file.
        path: PathBuf,
        /// The row that the layout was looked for in, from 0.
        row: usize,
        /// What the rows should be.
        noun: &'static str,
        /// The fields that are there.
        found: String,
        /// The layouts that are known.
        expected: &'static str,
    },
    /// The columns of a row are those of several layouts, and no layout was named.
    #[error(
        "{}: row {row}: the columns fit several layouts of {noun}, {layouts}; name the one that is meant", path.display()
    )]
    TwoLayouts {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What the rows should be.
        noun: &'static str,
        /// The layouts' names.
        layouts: String,
    },
    /// A row, or what the rows take together, exceeds what a file of rows may hold.
    #[error("{}: row {row} {problem}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What exceeds which bound.
        problem: String,
    },
    /// Every row was left out.
    #[error("{}: none of the {skipped} rows can be used as {noun}; {reason}", path.display())]
    NoneUsable {
        /// The file.
        path: PathBuf,
        /// How many rows there are.
        skipped: usize,
        /// What the rows should have been.
        noun: &'static str,
        /// Why the first was left out.
        reason: String,
    },
    /// The file is not readable Parquet.
    #[error("{}: cannot be read as Parquet: {problem}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The error of the reader.
        problem: String,
    },
    /// Rows of our own making cannot be stored: a fault of the program or of a computation, not of the input.
    #[error("{}: rows of {noun} cannot be stored: {problem}", path.display())]
    Encode {
        /// The file that was to be written.
        path: PathBuf,
        /// What the rows are.
        noun: &'static str,
        /// The row and the reason.
        problem: String,
    },
}

impl HasKind for RecordError {
    fn kind(&self) -> Kind {
        match self {
            Self::Write(source) => source.kind(),
            Self::Encode { .. } => Kind::Defect,
            Self::Read { source, .. } => Kind::of_named_path(source),
            Self::Ending { .. }
            | Self::Empty { .. }
            | Self::NotJson { .. }
            | Self::Field { .. }
            | Self::Duplicate { .. }
            | Self::DuplicateAcross { .. }
            | Self::Layout { .. }
            | Self::TwoLayouts { .. }
            | Self::Limit { .. }
            | Self::NoneUsable { .. }
            | Self::Parquet { .. } => Kind::Input,
        }
    }
}

impl RecordError {
    pub(crate) fn read(path: &Path, source: io::Error) -> Self {
        Self::Read { path: path.to_path_buf(), source }
    }
}

fn without_id(numbered: Option<usize>) -> String {
    numbered.map_or_else(String::new, |row| {
        format!("; row {row} has no prompt_id and goes by its number: give every row one, or none")
    })
}

/// A field of a row that is missing or not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field, with the way to the wrong part: `responses[3].ids`.
    pub field: String,
    /// "expected …, found …".
    pub problem: String,
}

impl FieldProblem {
    /// `field` should be `expected` and is `found`.
    pub fn new(field: impl Into<String>, expected: impl fmt::Display, found: impl fmt::Display) -> Self {
        let found = quoted(&found.to_string());
        Self { field: quoted(&field.into()), problem: format!("expected {expected}, found {found}") }
    }

    /// Back from its text: the one thing that an error can carry through serde.
    pub(crate) fn from_text(text: &str) -> Option<Self> {
        let (field, problem) = text.strip_prefix("field \"")?.split_once("\": ")?;
        Some(Self { field: field.to_owned(), problem: problem.to_owned() })
    }
}

impl fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field \"{}\": {}", self.field, self.problem)
    }
}

/// What is wrong with one row, before it is known where the row stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RowProblem {
    NotJson(String),
    Field(FieldProblem),
}

impl RowProblem {
    pub(crate) fn at(self, path: &Path, row: usize) -> RecordError {
        let path = path.to_path_buf();
        match self {
            Self::NotJson(problem) => RecordError::NotJson { path, row, problem },
            Self::Field(problem) => RecordError::Field { path, row, problem },
        }
    }
}

impl From<FieldProblem> for RowProblem {
    fn from(problem: FieldProblem) -> Self {
        Self::Field(problem)
    }
}

impl fmt::Display for RowProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotJson(problem) => f.write_str(problem),
            Self::Field(problem) => problem.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_the_users_matter_and_writing_is_not() {
        let path = Path::new("a.jsonl");
        let absent = || io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(RecordError::read(path, absent()).kind(), Kind::Input);
        let written = RecordError::from(WriteError::at(path, "write")(absent()));
        assert_eq!(written.kind(), Kind::Machine);
        let broken = RecordError::read(path, io::Error::from_raw_os_error(libc::EIO));
        assert_eq!(broken.kind(), Kind::Machine);
        assert_eq!(RecordError::Ending { path: path.into() }.kind(), Kind::Input);
    }

    #[test]
    fn a_problem_survives_its_text() {
        let problem = FieldProblem::new("responses[3].ids", "a token id", "\"x\": y");
        assert_eq!(FieldProblem::from_text(&problem.to_string()), Some(problem));
    }
}
