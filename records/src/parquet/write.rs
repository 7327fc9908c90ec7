//! Rows to Parquet, through `arrow-json`, so that JSON and Parquet cannot disagree.
//!
//! Columns are nullable, lists have items named `item` and objects are structs: what `datasets` and pyarrow read and
//! write. Compressed with Zstandard, with a checksum ([`crate::checksum`]). Fields that are not ours and that no column holds
//! are text ([`crate::extra`]).

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ArrowWriter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow_json::ReaderBuilder;
use arrow_schema::ArrowError;

use crate::limits::COLUMNS;
use crate::{RecordError, Row, WriteError, atomic, checksum, extra};

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

impl From<ArrowError> for EncodeFailure {
    fn from(error: ArrowError) -> Self {
        Self::Encode(error.to_string())
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

fn encode<R: Row>(rows: &[R], sink: impl io::Write + Send) -> Result<(), EncodeFailure> {
    let schema = Arc::new(R::schema(rows));
    if schema.fields().len() > COLUMNS {
        let found = schema.fields().len();
        return Err(EncodeFailure::Encode(format!(
            "{found} columns, and Parquet takes at most {COLUMNS} here"
        )));
    }
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(GROUP_ROWS))
        .set_key_value_metadata(Some(checksum::placeholder()))
        .build();
    let mut writer = ArrowWriter::try_new(sink, schema.clone(), Some(properties))?;
    for part in rows.chunks(BATCH_ROWS) {
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(BATCH_ROWS).build_decoder()?;
        decoder.serialize(part)?;
        if let Some(batch) = decoder.flush()? {
            writer.write(&batch)?;
        }
    }
    writer.close()?;
    Ok(())
}
