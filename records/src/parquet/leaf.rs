//! A column of a row group: its values a batch of rows at a time, taken one by one.
//!
//! Texts are parts of the pages that hold them, so that one that is there many times is in memory once.

use std::fs::File;
use std::mem;
use std::sync::Arc;

use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use ::parquet::data_type::{
    BoolType, ByteArrayType, DataType, DoubleType, FixedLenByteArrayType, FloatType, Int32Type, Int64Type,
    Int96Type,
};
use ::parquet::file::metadata::RowGroupMetaData;
use ::parquet::file::serialized_reader::SerializedPageReader;
use ::parquet::schema::types::ColumnDescPtr;

const FEWER_ROWS: &str = "it has fewer rows than the file says";

/// A column's batch, and how much of it was taken.
pub(super) struct Leaf {
    reader: TypedReader,
    /// Levels of each entry; empty where the column has no such levels.
    definition: Vec<i16>,
    repetition: Vec<i16>,
    /// The definition level of an entry that has a value.
    full: i16,
    /// Entries of the batch, and the place of the next one.
    entries: usize,
    next: usize,
    /// The place of the next entry's value.
    next_value: usize,
    /// The place of the row's first entry.
    row_start: usize,
}

/// A reader with what it has read.
struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    values: Vec<T::T>,
}

enum TypedReader {
    Bool(Typed<BoolType>),
    Int32(Typed<Int32Type>),
    Int64(Typed<Int64Type>),
    Int96(Typed<Int96Type>),
    Float(Typed<FloatType>),
    Double(Typed<DoubleType>),
    Bytes(Typed<ByteArrayType>),
    Fixed(Typed<FixedLenByteArrayType>),
}

/// A value as it is stored.
#[derive(Clone, Copy, Debug)]
pub(super) enum StoredLeaf<'a> {
    Bool(bool),
    Int32(i32),
    Int64(i64),
    Int96(&'a [u32]),
    Float(f32),
    Double(f64),
    Bytes(&'a [u8]),
}

/// Levels that contradict each other.
#[derive(Debug)]
pub(super) struct Damaged;

impl Leaf {
    /// The column `place` of a row group.
    ///
    /// # Errors
    /// Pages that cannot be read.
    pub(super) fn open(
        file: &Arc<File>,
        group: &RowGroupMetaData,
        place: usize,
        column: &ColumnDescPtr,
    ) -> Result<Self, String> {
        let rows = usize::try_from(group.num_rows()).map_err(|error| error.to_string())?;
        let pages = SerializedPageReader::new(file.clone(), group.column(place), rows, None);
        let pages = Box::new(pages.map_err(|error| error.to_string())?);
        fn of<T: DataType>(reader: ColumnReaderImpl<T>) -> Typed<T> {
            Typed { reader, values: Vec::new() }
        }
        let reader = match get_column_reader(column.clone(), pages) {
            ColumnReader::BoolColumnReader(reader) => TypedReader::Bool(of(reader)),
            ColumnReader::Int32ColumnReader(reader) => TypedReader::Int32(of(reader)),
            ColumnReader::Int64ColumnReader(reader) => TypedReader::Int64(of(reader)),
            ColumnReader::Int96ColumnReader(reader) => TypedReader::Int96(of(reader)),
            ColumnReader::FloatColumnReader(reader) => TypedReader::Float(of(reader)),
            ColumnReader::DoubleColumnReader(reader) => TypedReader::Double(of(reader)),
            ColumnReader::ByteArrayColumnReader(reader) => TypedReader::Bytes(of(reader)),
            ColumnReader::FixedLenByteArrayColumnReader(reader) => TypedReader::Fixed(of(reader)),
        };
        Ok(Self {
            reader,
            definition: Vec::new(),
            repetition: Vec::new(),
            full: column.max_def_level(),
            entries: 0,
            next: 0,
            next_value: 0,
            row_start: 0,
        })
    }

    /// Reads the next `rows` rows in place of those before.
    ///
    /// # Errors
    /// Pages that cannot be decoded, or that have fewer rows.
    pub(super) fn fill(&mut self, rows: usize) -> Result<(), String> {
        self.definition.clear();
        self.repetition.clear();
        (self.next, self.next_value, self.row_start) = (0, 0, 0);
        let levels = (&mut self.definition, &mut self.repetition);
        fn read<T: DataType>(
            typed: &mut Typed<T>,
            rows: usize,
            (definition, repetition): (&mut Vec<i16>, &mut Vec<i16>),
        ) -> Result<(usize, usize), String> {
            typed.values.clear();
            let read = typed.reader.read_records(rows, Some(definition), Some(repetition), &mut typed.values);
            let (rows, _, levels) = read.map_err(|error| error.to_string())?;
            Ok((rows, levels))
        }
        let (read, entries) = match &mut self.reader {
            TypedReader::Bool(typed) => read(typed, rows, levels),
            TypedReader::Int32(typed) => read(typed, rows, levels),
            TypedReader::Int64(typed) => read(typed, rows, levels),
            TypedReader::Int96(typed) => read(typed, rows, levels),
            TypedReader::Float(typed) => read(typed, rows, levels),
            TypedReader::Double(typed) => read(typed, rows, levels),
            TypedReader::Bytes(typed) => read(typed, rows, levels),
            TypedReader::Fixed(typed) => read(typed, rows, levels),
        }?;
        self.entries = entries;
        if read == rows { Ok(()) } else { Err(FEWER_ROWS.to_owned()) }
    }

    /// Passes over the next `rows` rows, which no batch holds yet.
    ///
    /// # Errors
    /// Pages that cannot be decoded, or that have fewer rows.
    pub(super) fn skip(&mut self, rows: usize) -> Result<(), String> {
        let skipped = match &mut self.reader {
            TypedReader::Bool(typed) => typed.reader.skip_records(rows),
            TypedReader::Int32(typed) => typed.reader.skip_records(rows),
            TypedReader::Int64(typed) => typed.reader.skip_records(rows),
            TypedReader::Int96(typed) => typed.reader.skip_records(rows),
            TypedReader::Float(typed) => typed.reader.skip_records(rows),
            TypedReader::Double(typed) => typed.reader.skip_records(rows),
            TypedReader::Bytes(typed) => typed.reader.skip_records(rows),
            TypedReader::Fixed(typed) => typed.reader.skip_records(rows),
        };
        if skipped.map_err(|error| error.to_string())? == rows { Ok(()) } else { Err(FEWER_ROWS.to_owned()) }
    }

    /// The definition level of the next entry.
    pub(super) fn definition(&self) -> Result<i16, Damaged> {
        if self.next >= self.entries {
            return Err(Damaged);
        }
        if self.full == 0 { Ok(0) } else { self.definition.get(self.next).copied().ok_or(Damaged) }
    }

    /// Whether the next entry goes on with a list of the repetition level `again`, or with one in it.
    pub(super) fn goes_on(&self, again: i16) -> bool {
        self.next < self.entries && self.repetition.get(self.next).is_some_and(|&level| level >= again)
    }

    /// Takes the next entry, which has no value.
    pub(super) fn pass(&mut self) -> Result<(), Damaged> {
        if self.definition()? == self.full {
            self.next_value += 1;
        }
        self.next += 1;
        Ok(())
    }

    /// Takes the next entry's value.
    pub(super) fn take(&mut self) -> Result<StoredLeaf<'_>, Damaged> {
        if self.definition()? != self.full {
            return Err(Damaged);
        }
        self.next += 1;
        let place = self.next_value;
        self.next_value += 1;
        let found = match &self.reader {
            TypedReader::Bool(typed) => typed.values.get(place).map(|&value| StoredLeaf::Bool(value)),
            TypedReader::Int32(typed) => typed.values.get(place).map(|&value| StoredLeaf::Int32(value)),
            TypedReader::Int64(typed) => typed.values.get(place).map(|&value| StoredLeaf::Int64(value)),
            TypedReader::Int96(typed) => typed.values.get(place).map(|value| StoredLeaf::Int96(value.data())),
            TypedReader::Float(typed) => typed.values.get(place).map(|&value| StoredLeaf::Float(value)),
            TypedReader::Double(typed) => typed.values.get(place).map(|&value| StoredLeaf::Double(value)),
            TypedReader::Bytes(typed) => typed.values.get(place).map(|value| StoredLeaf::Bytes(value.data())),
            TypedReader::Fixed(typed) => typed.values.get(place).map(|value| StoredLeaf::Bytes(value.data())),
        };
        found.ok_or(Damaged)
    }

    /// Ends a row. One that was refused half way is passed over to its end; any other must end here.
    pub(super) fn end_row(&mut self, is_refused: bool) -> Result<(), Damaged> {
        let first = mem::replace(&mut self.row_start, self.next);
        if is_refused {
            if self.next == first {
                self.pass()?;
            }
            while self.goes_on(1) {
                self.pass()?;
            }
            self.row_start = self.next;
        }
        if self.next == first || self.goes_on(1) { Err(Damaged) } else { Ok(()) }
    }
}
