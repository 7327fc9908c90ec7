//! What a layout is, and which one a row has.

use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};

use super::oddity::Oddity;
use crate::RecordError;
use crate::error::RowProblem;

/// A row's fields.
pub(super) type RowFields = Map<String, Value>;

/// A layout that rows of data sets come in.
pub struct DataLayout<T: 'static> {
    /// As recipes and flags name it.
    pub(super) name: &'static str,
    /// Other names for it.
    pub(super) aliases: &'static [&'static str],
    /// The columns that it reads.
    pub(super) fields: &'static [&'static str],
    /// Whether a row has what it needs. `None`: it is taken only where it is named.
    pub(super) fits: Option<fn(&RowFields) -> bool>,
    /// How rows become examples.
    pub(super) reading: RowReading<T>,
}

/// How rows become examples.
pub(super) enum RowReading<T> {
    /// Each by itself.
    Row(fn(&RowFields, &mut Vec<Oddity>) -> Result<Vec<T>, RowProblem>),
    /// Neighbours with the same key together; one without a key by itself.
    Group(GroupReading<T>),
}

/// Makes examples of a group's rows, and notes what is odd about them.
pub(super) type ReadGroup<T> = fn(&[RowFields], &mut Vec<Oddity>) -> Result<Vec<T>, GroupProblem>;

/// How rows that belong together become examples.
pub(super) struct GroupReading<T> {
    /// What the rows of a group have in common.
    pub(super) key: fn(&RowFields) -> Option<String>,
    /// A whole group.
    pub(super) read: ReadGroup<T>,
}

/// What is wrong with one row of a group.
pub(super) struct GroupProblem {
    /// Its place in the group.
    pub(super) place: usize,
    /// What is wrong.
    pub(super) problem: RowProblem,
}

/// What the rows of a data set become: instructions or pairs.
pub trait DataExample: Sized + 'static {
    /// What the examples are, for messages.
    const EXAMPLES: &'static str;
    /// Whether the rows of one file may have several layouts, or all have the first one's.
    const MIXED: bool;

    /// Every layout; of several that fit a row, the first one is taken only where it holds token ids, which win over text.
    fn layouts() -> &'static [&'static DataLayout<Self>];

    /// The error of a row that no layout fits.
    fn unknown(path: &Path, row: usize, fields: &Map<String, Value>) -> RecordError;
}

impl<T: DataExample> DataLayout<T> {
    /// The layout of this name.
    pub fn named(name: &str) -> Option<&'static Self> {
        T::layouts().iter().copied().find(|layout| layout.name == name || layout.aliases.contains(&name))
    }

    /// The names of all layouts.
    pub fn names() -> Vec<&'static str> {
        T::layouts().iter().map(|layout| layout.name).collect()
    }

    /// The layout's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The columns that it reads, by the names that a column map gives others for.
    pub fn fields(&self) -> &'static [&'static str] {
        self.fields
    }

    /// The layout that a row has.
    pub(super) fn of(path: &Path, row: usize, fields: &RowFields) -> Result<&'static Self, RecordError> {
        let fits = |layout: &&'static Self| layout.fits.is_some_and(|fits| fits(fields));
        let found: Vec<&'static Self> = T::layouts().iter().copied().filter(fits).collect();
        match found.as_slice() {
            [] => Err(T::unknown(path, row, fields)),
            [only] => Ok(only),
            [first, ..] if first.name == IDS => Ok(first),
            several => {
                let names: Vec<String> = several.iter().map(|one| format!("{:?}", one.name)).collect();
                Err(RecordError::TwoLayouts {
                    path: path.to_path_buf(),
                    row,
                    noun: T::EXAMPLES,
                    layouts: names.join(" and "),
                })
            }
        }
    }
}

/// The layout of token ids, which win over text.
pub(super) const IDS: &str = "ids";

impl<T> fmt::Debug for DataLayout<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}
