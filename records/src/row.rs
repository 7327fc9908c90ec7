//! What every kind of row provides: its columns in Parquet, and the check of its fields.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Fields, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{FieldProblem, extra};

/// A row of a file. JSON's names are Parquet's columns; what a row lacks is absent in JSON and null in Parquet.
pub trait Row: Serialize + DeserializeOwned + Clone {
    /// What the rows are, for messages: "prompts".
    const NOUN: &'static str;

    /// The Parquet columns of `rows`. Optional columns are in it only when some row has them; all of them are in the
    /// schema of no rows.
    fn schema(rows: &[Self]) -> Schema;

    /// Bytes of a row as JSON at most; one that is larger is refused on reading.
    const MOST_BYTES: usize = crate::limits::ROW_BYTES;

    /// The names of the columns that are read; `None`: all, because fields that are not ours are carried along.
    fn columns() -> Option<Vec<String>> {
        Some(Self::schema(&[]).fields().iter().map(|field| field.name().clone()).collect())
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

/// Gathers a schema's columns.
pub(crate) struct Columns<'a, R> {
    rows: &'a [R],
    fields: Vec<Field>,
}

impl<'a, R> Columns<'a, R> {
    pub(crate) fn of(rows: &'a [R]) -> Self {
        Self { rows, fields: Vec::new() }
    }

    /// A column that is always there.
    pub(crate) fn always(mut self, name: &str, kind: DataType) -> Self {
        self.fields.push(Field::new(name, kind, true));
        self
    }

    /// A column that is there when some row has it.
    pub(crate) fn where_some(self, name: &str, kind: DataType, has: impl Fn(&R) -> bool) -> Self {
        if self.rows.is_empty() || self.rows.iter().any(has) { self.always(name, kind) } else { self }
    }

    /// The columns of fields that are not ours, their types by their values.
    pub(crate) fn extra(mut self, of: impl Fn(&R) -> &Map<String, Value>) -> Self {
        let rows: Vec<&Map<String, Value>> = self.rows.iter().map(of).collect();
        self.fields.extend(extra::columns(&rows).into_iter().map(|column| column.field()));
        self
    }

    pub(crate) fn schema(self) -> Schema {
        Schema::new(self.fields)
    }
}

pub(crate) fn text() -> DataType {
    DataType::Utf8
}

pub(crate) fn number() -> DataType {
    DataType::Float64
}

pub(crate) fn list(of: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(of, true)))
}

pub(crate) fn ids() -> DataType {
    list(DataType::UInt32)
}

pub(crate) fn record(fields: Vec<(&str, DataType)>) -> DataType {
    DataType::Struct(fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect::<Fields>())
}

pub(crate) fn messages() -> DataType {
    list(record(vec![("role", text()), ("content", text())]))
}
