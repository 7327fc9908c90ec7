//! Rows taken apart into columns, a batch at a time: what the writer of each column is handed.
//!
//! Parquet stores a nested field as the columns of its innermost parts. Each value there has two levels: how many of the
//! optional and repeated fields around it are present, itself included (definition), and which of the lists around it goes
//! on with it (repetition; 0: none, a new row begins).

use std::mem;

use ::parquet::column::writer::ColumnWriter;
use ::parquet::data_type::ByteArray;
use ::parquet::errors::{ParquetError, Result};
use bytes::Bytes;

use crate::{ColumnSpec, ColumnType};

/// The values of a field in some rows.
pub(super) struct ColumnBuffer {
    /// The definition level at which the field's value is there; one less is its being null.
    present: i16,
    pub(super) content: Content,
}

/// What a field holds.
pub(super) enum Content {
    /// The values of a column.
    Leaf(LeafBuffer),
    /// A list: the repetition level of its second item and those after it, and the items.
    List(i16, Box<ColumnBuffer>),
    /// An object's fields.
    Fields(FieldBuffers),
}

/// The fields of an object, or of the row.
pub(super) struct FieldBuffers {
    pub(super) names: Vec<String>,
    pub(super) buffers: Vec<ColumnBuffer>,
    /// Which fields the object has had so far.
    pub(super) filled: Vec<bool>,
}

/// A column's values and levels.
pub(super) struct LeafBuffer {
    pub(super) values: LeafValues,
    definition: Vec<i16>,
    repetition: Vec<i16>,
}

/// A column's values, nulls left out.
pub(super) enum LeafValues {
    Null,
    Bool(Vec<bool>),
    UInt32(Vec<i32>),
    UInt64(Vec<i64>),
    Int64(Vec<i64>),
    Float32(Vec<f32>),
    Float64(Vec<f64>),
    /// The texts one after the other, and where each ends.
    Text(Vec<u8>, Vec<usize>),
}

impl ColumnBuffer {
    /// For rows with these columns.
    pub(super) fn of_rows(columns: &[ColumnSpec]) -> Self {
        Self { present: 0, content: Content::Fields(FieldBuffers::of(columns, 0, 0)) }
    }

    /// Of a field inside of what is present at the level `outer`, in lists of the depth `repetition`.
    fn of(kind: &ColumnType, outer: i16, repetition: i16) -> Self {
        let present = outer + 1;
        let values = match kind {
            ColumnType::Null => LeafValues::Null,
            ColumnType::Bool => LeafValues::Bool(Vec::new()),
            ColumnType::UInt32 => LeafValues::UInt32(Vec::new()),
            ColumnType::UInt64 => LeafValues::UInt64(Vec::new()),
            ColumnType::Int64 => LeafValues::Int64(Vec::new()),
            ColumnType::Float32 => LeafValues::Float32(Vec::new()),
            ColumnType::Float64 => LeafValues::Float64(Vec::new()),
            ColumnType::Text => LeafValues::Text(Vec::new(), Vec::new()),
            ColumnType::List(item) => {
                // An item's being there is a level of its own, before its being no null.
                let items = Self::of(item, present + 1, repetition + 1);
                return Self { present, content: Content::List(repetition + 1, Box::new(items)) };
            }
            ColumnType::Struct(columns) => {
                return Self {
                    present,
                    content: Content::Fields(FieldBuffers::of(columns, present, repetition)),
                };
            }
        };
        let leaf = LeafBuffer { values, definition: Vec::new(), repetition: Vec::new() };
        Self { present, content: Content::Leaf(leaf) }
    }

    /// Notes that the field is null.
    pub(super) fn push_null(&mut self, repetition: i16) {
        self.push_absent(repetition, self.present - 1);
    }

    /// Notes that the field's list has no items.
    pub(super) fn push_empty(&mut self, repetition: i16) {
        self.push_absent(repetition, self.present);
    }

    fn push_absent(&mut self, repetition: i16, definition: i16) {
        match &mut self.content {
            Content::Leaf(leaf) => leaf.push_levels(repetition, definition),
            Content::List(_, items) => items.push_absent(repetition, definition),
            Content::Fields(fields) => {
                fields.buffers.iter_mut().for_each(|field| field.push_absent(repetition, definition));
            }
        }
    }

    /// The column, where the field is one; its next value's levels are noted.
    pub(super) fn push_value(&mut self, repetition: i16) -> Option<&mut LeafValues> {
        match &mut self.content {
            Content::Leaf(leaf) => {
                leaf.push_levels(repetition, self.present);
                Some(&mut leaf.values)
            }
            Content::List(..) | Content::Fields(_) => None,
        }
    }

    /// Hands every column's values to its writer, in the order of the schema, and forgets them.
    pub(super) fn flush(&mut self, writers: &mut std::slice::IterMut<'_, ColumnWriter<'_>>) -> Result<()> {
        match &mut self.content {
            Content::Leaf(leaf) => match writers.next() {
                Some(writer) => leaf.flush(writer),
                None => Err(ParquetError::General("a column has no writer".to_owned())),
            },
            Content::List(_, items) => items.flush(writers),
            Content::Fields(fields) => fields.buffers.iter_mut().try_for_each(|field| field.flush(writers)),
        }
    }
}

impl FieldBuffers {
    fn of(columns: &[ColumnSpec], present: i16, repetition: i16) -> Self {
        let buffers: Vec<ColumnBuffer> =
            columns.iter().map(|column| ColumnBuffer::of(&column.kind, present, repetition)).collect();
        let names = columns.iter().map(|column| column.name.clone()).collect();
        Self { names, filled: vec![false; buffers.len()], buffers }
    }
}

impl LeafBuffer {
    fn push_levels(&mut self, repetition: i16, definition: i16) {
        self.repetition.push(repetition);
        self.definition.push(definition);
    }

    fn flush(&mut self, writer: &mut ColumnWriter<'_>) -> Result<()> {
        let levels = (Some(self.definition.as_slice()), Some(self.repetition.as_slice()));
        macro_rules! write {
            ($writer:ident, $values:expr) => {{
                $writer.write_batch($values, levels.0, levels.1)?;
                $values.clear();
            }};
        }
        match (&mut self.values, writer) {
            (LeafValues::Null, ColumnWriter::Int32ColumnWriter(writer)) => {
                writer.write_batch(&[], levels.0, levels.1)?;
            }
            (LeafValues::Bool(values), ColumnWriter::BoolColumnWriter(writer)) => write!(writer, values),
            (LeafValues::UInt32(values), ColumnWriter::Int32ColumnWriter(writer)) => write!(writer, values),
            (
                LeafValues::UInt64(values) | LeafValues::Int64(values),
                ColumnWriter::Int64ColumnWriter(writer),
            ) => {
                write!(writer, values);
            }
            (LeafValues::Float32(values), ColumnWriter::FloatColumnWriter(writer)) => write!(writer, values),
            (LeafValues::Float64(values), ColumnWriter::DoubleColumnWriter(writer)) => write!(writer, values),
            (LeafValues::Text(text, ends), ColumnWriter::ByteArrayColumnWriter(writer)) => {
                // One allocation for all of them: each value is a part of it.
                let all = Bytes::from(mem::take(text));
                let mut start = 0;
                let values: Vec<ByteArray> = ends
                    .drain(..)
                    .map(|end| ByteArray::from(all.slice(mem::replace(&mut start, end)..end)))
                    .collect();
                writer.write_batch(&values, levels.0, levels.1)?;
            }
            _ => return Err(ParquetError::General("a column's writer is of another type".to_owned())),
        }
        self.definition.clear();
        self.repetition.clear();
        Ok(())
    }
}
