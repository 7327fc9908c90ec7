//! What every kind of row provides: its columns in Parquet, and the check of its fields.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{ColumnSpec, ColumnType, FieldProblem, Message, extra};

/// A row of a file. JSON's names are Parquet's columns; what a row lacks is absent in JSON and null in Parquet.
pub trait Row: Serialize + DeserializeOwned + Clone {
    /// What the rows are, for messages: "prompts".
    const NOUN: &'static str;

    /// The Parquet columns of `rows`. Optional columns are among them only when some row has them; all of them are
    /// columns of no rows.
    fn schema(rows: &[Self]) -> Vec<ColumnSpec>;

    /// Bytes of a row as JSON at most; one that is larger is refused on reading.
    const MOST_BYTES: usize = crate::limits::ROW_BYTES;

    /// The names of the columns that are read; `None`: all, because fields that are not ours are carried along.
    fn columns() -> Option<Vec<String>> {
        Some(Self::schema(&[]).into_iter().map(|column| column.name).collect())
    }

    /// The fields that are not ours, where this kind of row carries them along.
    fn extra(&self) -> Option<&Map<String, Value>> {
        None
    }

    /// As [`Row::extra`], to exchange values that one column cannot hold.
    fn extra_mut(&mut self) -> Option<&mut Map<String, Value>> {
        None
    }

    /// Sets the row's number in its file, from 0, before [`Row::check`]: prompts without an id take it.
    fn number(&mut self, _row: usize) {}

    /// The id that no other row of the file may have.
    fn identity(&self) -> Option<&str> {
        None
    }

    /// Whether the fields fit together; checked on reading and before writing.
    ///
    /// # Errors
    /// The first field that does not.
    fn check(&self) -> Result<(), FieldProblem> {
        Ok(())
    }
}

/// The methods of [`Row`] for a type that keeps the fields of others in `extra`: every column is read.
macro_rules! keeps_other_fields {
    () => {
        fn columns() -> Option<Vec<String>> {
            None
        }

        fn extra(&self) -> Option<&Map<String, Value>> {
            Some(&self.extra)
        }

        fn extra_mut(&mut self) -> Option<&mut Map<String, Value>> {
            Some(&mut self.extra)
        }
    };
}
pub(crate) use keeps_other_fields;

/// Gathers the columns of a kind of row.
pub(crate) struct Columns<'a, R> {
    rows: &'a [R],
    columns: Vec<ColumnSpec>,
}

impl<'a, R> Columns<'a, R> {
    pub(crate) fn of(rows: &'a [R]) -> Self {
        Self { rows, columns: Vec::new() }
    }

    /// A column that is always there.
    pub(crate) fn always(mut self, name: &str, kind: ColumnType) -> Self {
        self.columns.push(ColumnSpec::new(name, kind));
        self
    }

    /// A column that is there when some row has it.
    pub(crate) fn where_some(self, name: &str, kind: ColumnType, has: impl Fn(&R) -> bool) -> Self {
        if self.rows.is_empty() || self.rows.iter().any(has) { self.always(name, kind) } else { self }
    }

    /// A column of conversations that is there when some row has one.
    pub(crate) fn messages(self, name: &str, of: impl Fn(&R) -> Option<&[Message]>) -> Self {
        let more = self.rows.iter().filter_map(&of).flatten().any(Message::has_more);
        self.where_some(name, messages(more), |row| of(row).is_some())
    }

    /// The columns of fields that are not ours, their types by their values.
    pub(crate) fn extra(mut self, of: impl Fn(&R) -> &Map<String, Value>) -> Self {
        let rows: Vec<&Map<String, Value>> = self.rows.iter().map(of).collect();
        self.columns.extend(extra::columns(&rows).into_iter().map(extra::ExtraColumn::into_spec));
        self
    }

    pub(crate) fn schema(self) -> Vec<ColumnSpec> {
        self.columns
    }
}

/// That all of a list's numbers are finite: JSON reads 1e39 into a number of 32 bits as infinite.
pub(crate) fn finite(field: &str, values: &[f32]) -> Result<(), FieldProblem> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(at) => {
            Err(FieldProblem::new(format!("{field}[{at}]"), "a finite number of 32 bits", values[at]))
        }
        None => Ok(()),
    }
}

pub(crate) fn text() -> ColumnType {
    ColumnType::Text
}

pub(crate) fn number() -> ColumnType {
    ColumnType::Float64
}

pub(crate) fn ids() -> ColumnType {
    ColumnType::UInt32.list()
}

pub(crate) fn record(fields: Vec<(&str, ColumnType)>) -> ColumnType {
    ColumnType::Struct(fields.into_iter().map(|(name, kind)| ColumnSpec::new(name, kind)).collect())
}

/// Conversations; `more` where a message is more than a role and a text.
fn messages(more: bool) -> ColumnType {
    let mut fields = vec![("role", text()), ("content", text())];
    if more {
        fields.push((Message::GIVEN, text()));
    }
    record(fields).list()
}
