//! Rows as Parquet, through `arrow-json` both ways, so that JSON and Parquet cannot disagree.
//!
//! Columns are nullable, lists have items named `item` and objects are structs: what `datasets` and pyarrow read and
//! write. Compressed with Zstandard, with a checksum ([`crate::checksum`]). Files of others may have other widths, string kinds and more columns.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::{Arc, Once};

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use arrow_json::ReaderBuilder;
use arrow_json::writer::LineDelimitedWriter;
use arrow_schema::ArrowError;

use crate::jsonl::Take;
use crate::raw_row::RawRow;
use crate::{RecordError, Row, WriteError, atomic, checksum};

/// Rows turned into columns at a time: bounds memory, whatever the file's size.
const BATCH_ROWS: usize = 1024;
/// Rows of a row group; `datasets` streams a group at a time.
const GROUP_ROWS: usize = 8192;

/// Hands over each row as JSON.
pub(crate) fn each_row(path: &Path, mut file: File, take: &mut Take<'_>) -> Result<(), RecordError> {
    checksum::verify(path, &mut file)?;
    let wrong = |problem: String| RecordError::Parquet { path: path.to_path_buf(), problem };
    let mut batches = guarded(|| {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| error.to_string())?;
        builder.with_batch_size(BATCH_ROWS).build().map_err(|error| error.to_string())
    })
    .map_err(wrong)?;
    let mut row = 0;
    while let Some(lines) = guarded(|| next_lines(&mut batches)).map_err(wrong)? {
        // A JSON text has no bare line end in it, so that lines are rows.
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            take(row, RawRow::Text(line))?;
            row += 1;
        }
    }
    Ok(())
}

/// The next rows as JSON Lines.
fn next_lines(batches: &mut ParquetRecordBatchReader) -> Result<Option<Vec<u8>>, String> {
    let Some(batch) = batches.next().transpose().map_err(|error| error.to_string())? else { return Ok(None) };
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(&batch).and_then(|()| writer.finish()).map_err(|error| error.to_string())?;
    Ok(Some(writer.into_inner()))
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Turns a panic into an error: `parquet` 59 still asserts on some damaged pages (bit widths, for one). Its message
/// does not reach standard error; panics elsewhere do as before.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                before(info);
            }
        }));
    });
    GUARDED.set(true);
    // What the closure leaves half done is the reader, which is dropped with the error.
    let result = panic::catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    result.unwrap_or_else(|_| Err("the file is damaged".to_owned()))
}

/// Writes rows whole or not at all, with a checksum: the file, smaller than its rows, is made in memory first.
pub(crate) fn write<R: Row>(path: &Path, rows: &[R]) -> Result<(), RecordError> {
    let mut file = Vec::new();
    encode(rows, &mut file).map_err(|failure| match failure {
        Failure::Io(source) => WriteError::at(path, "write")(source).into(),
        Failure::Encode(problem) => RecordError::Encode { path: path.to_path_buf(), noun: R::NOUN, problem },
    })?;
    if !checksum::seal(&mut file) {
        let problem = "its footer has no place for the checksum".to_owned();
        return Err(RecordError::Encode { path: path.to_path_buf(), noun: R::NOUN, problem });
    }
    Ok(atomic::write_bytes(path, &file)?)
}

/// Why columns were not written.
enum Failure {
    /// The file system refused.
    Io(io::Error),
    /// The rows do not fit their columns.
    Encode(String),
}

impl From<ArrowError> for Failure {
    fn from(error: ArrowError) -> Self {
        Self::Encode(error.to_string())
    }
}

impl From<ParquetError> for Failure {
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

fn encode<R: Row>(rows: &[R], sink: impl io::Write + Send) -> Result<(), Failure> {
    let schema = Arc::new(R::schema(rows));
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
