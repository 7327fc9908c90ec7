//! Rows to Parquet, through the serialization that writes their JSON, so that JSON and Parquet cannot disagree.
//!
//! The columns are those that `datasets` and pyarrow write and read ([`super::schema`]). Compressed with Zstandard, with a
//! checksum ([`crate::checksum`]). Fields that are not ours and that no column holds are text ([`crate::extra`]).

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::column::writer::{ColumnCloseResult, ColumnWriter, get_column_writer};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use ::parquet::file::writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite};
use ::parquet::schema::types::ColumnDescPtr;
use bytes::Bytes;

use super::buffer::ColumnBuffer;
use super::schema;
use super::shred::{Unstorable, push_row};
use crate::limits::COLUMNS;
use crate::{ColumnSpec, RecordError, Row, WriteError, atomic, checksum, extra};

/// Rows turned into columns at a time: bounds memory, whatever the file's size.
const BATCH_ROWS: usize = 1024;
/// Rows of a row group; `datasets` streams a group at a time.
const GROUP_ROWS: usize = 8192;

/// Writes rows whole or not at all, with a checksum: the file, smaller than its rows, is made in memory first.
pub(crate) fn write<R: Row>(path: &Path, rows: &[R]) -> Result<(), RecordError> {
    let mut file = Vec::new();
    let rows = storable(rows);
    encode(&rows, &mut file).map_err(|failure| match failure {
        EncodeFailure::Io(source) => WriteError::at(path, "write")(source).into(),
        EncodeFailure::Encode(problem) => {
            RecordError::Encode { path: path.to_path_buf(), noun: R::NOUN, problem }
        }
    })?;
    if !checksum::seal(&mut file) {
        let problem = "its footer has no place for the checksum".to_owned();
        return Err(RecordError::Encode { path: path.to_path_buf(), noun: R::NOUN, problem });
    }
    Ok(atomic::write_bytes(path, &file)?)
}

/// The rows with fields that no column holds as text.
fn storable<R: Row>(rows: &[R]) -> Cow<'_, [R]> {
    let fields: Vec<_> = rows.iter().filter_map(Row::extra).collect();
    let columns = extra::columns(&fields);
    let as_text: Vec<&str> = columns.iter().filter_map(extra::ExtraColumn::as_text).collect();
    if as_text.is_empty() {
        return Cow::Borrowed(rows);
    }
    let mut rows = rows.to_vec();
    for fields in rows.iter_mut().filter_map(Row::extra_mut) {
        for name in &as_text {
            if let Some(value) = fields.get_mut(*name) {
                *value = extra::to_text(value);
            }
        }
    }
    Cow::Owned(rows)
}

/// Why columns were not written.
enum EncodeFailure {
    /// The file system refused.
    Io(io::Error),
    /// The rows do not fit their columns.
    Encode(String),
}

impl From<Unstorable> for EncodeFailure {
    fn from(problem: Unstorable) -> Self {
        Self::Encode(problem.to_string())
    }
}

impl From<ParquetError> for EncodeFailure {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(inner) => match inner.downcast::<io::Error>() {
                Ok(error) => Self::Io(*error),
                Err(other) => Self::Encode(other.to_string()),
            },
            other => Self::Encode(other.to_string()),
        }
    }
}

fn encode<R: Row>(rows: &[R], sink: &mut Vec<u8>) -> Result<(), EncodeFailure> {
    let columns = R::schema(rows);
    let found: usize = columns.iter().map(|column| column.kind.leaves()).sum();
    if found > COLUMNS {
        return Err(EncodeFailure::Encode(format!(
            "{found} columns, and Parquet takes at most {COLUMNS} here"
        )));
    }
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_key_value_metadata(Some(checksum::placeholder()))
        .build();
    let properties = Arc::new(properties);
    let mut file = SerializedFileWriter::new(sink, schema::message(&columns)?, properties.clone())?;
    let leaves = file.schema_descr().columns().to_vec();
    for group in rows.chunks(GROUP_ROWS) {
        let encoded = encode_group(group, &columns, &leaves, &properties)?;
        let mut writer = file.next_row_group()?;
        for (bytes, column) in encoded {
            writer.append_column(&bytes, column)?;
        }
        writer.close()?;
    }
    file.close()?;
    Ok(())
}

/// The columns of a row group, each with its pages compressed, so that no more than a batch of rows is in memory twice.
fn encode_group<R: Row>(
    rows: &[R],
    columns: &[ColumnSpec],
    leaves: &[ColumnDescPtr],
    properties: &WriterPropertiesPtr,
) -> Result<Vec<(Bytes, ColumnCloseResult)>, EncodeFailure> {
    let mut sinks: Vec<_> = leaves.iter().map(|_| TrackedWrite::new(Vec::new())).collect();
    let mut writers: Vec<ColumnWriter<'_>> = leaves
        .iter()
        .zip(&mut sinks)
        .map(|(leaf, sink)| {
            let pages = Box::new(SerializedPageWriter::new(sink));
            get_column_writer(leaf.clone(), properties.clone(), pages)
        })
        .collect();
    let mut buffer = ColumnBuffer::of_rows(columns);
    for part in rows.chunks(BATCH_ROWS) {
        for row in part {
            push_row(row, &mut buffer)?;
        }
        buffer.flush(&mut writers.iter_mut())?;
    }
    let closed = writers.into_iter().map(ColumnWriter::close).collect::<Result<Vec<_>, _>>()?;
    let mut encoded = Vec::with_capacity(closed.len());
    for (sink, column) in sinks.into_iter().zip(closed) {
        encoded.push((Bytes::from(sink.into_inner()?), column));
    }
    Ok(encoded)
}
