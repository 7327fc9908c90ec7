//! Reading: footer and pages are measured, the wanted columns are decoded, each row becomes a line of JSON.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use ::parquet::basic::{Compression, Encoding, Type};
use ::parquet::file::metadata::ParquetMetaData;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Fields, Schema};

use super::footer;
use super::pages::Pages;
use super::value::{Unwritten, Writer};
use crate::io::Wanted;
use crate::jsonl::Take;
use crate::limits::{Budget, COLUMNS};
use crate::raw_row::RawRow;
use crate::{FieldProblem, RecordError, checksum, guard};

/// Rows decoded at a time: bounds memory, whatever the file's size.
const BATCH_ROWS: usize = 1024;
/// Bytes that a batch of values may take which are decoded one by one.
const BATCH_BYTES: u64 = 256 << 20;
/// Names of other columns that a row keeps, so that a message can say what is there.
const OTHER_NAMES: usize = 32;

/// Hands over each row as JSON: the wanted columns with their values, the names of some others with null.
pub(crate) fn each_row(
    path: &Path,
    mut file: File,
    wanted: &Wanted,
    budget: &mut Budget,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let wrong = |problem: String| RecordError::Parquet { path: path.to_path_buf(), problem };
    checksum::verify(path, &mut file)?;
    footer::check(&mut file).map_err(wrong)?;
    let metadata = guarded(|| metadata(&file)).map_err(wrong)?;
    let ReadPlan { roots, batch_rows } = plan(&file, metadata.metadata(), wanted).map_err(wrong)?;
    let others: Vec<String> = metadata
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(place, _)| !roots.contains(place))
        .take(OTHER_NAMES)
        .filter_map(|(_, field)| serde_json::to_string(field.name()).ok())
        .collect();
    let mask = ProjectionMask::roots(metadata.parquet_schema(), roots);
    let mut batches = guarded(|| {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
        let builder = builder.with_projection(mask).with_batch_size(batch_rows);
        builder.build().map_err(|error| error.to_string())
    })
    .map_err(wrong)?;
    let mut row = 0;
    let mut line = Vec::new();
    while let Some(batch) = guarded(|| next(&mut batches)).map_err(wrong)? {
        for place in 0..batch.num_rows() {
            let raw = match write_row(&batch, place, wanted, &others, budget.row_bytes(), &mut line) {
                Ok(()) if budget.has_too_many_values(&line) => return Err(budget.row_too_large(path, row)),
                Ok(()) => RawRow::Text(&line),
                Err(Unusable::TooLarge) => return Err(budget.row_too_large(path, row)),
                Err(Unusable::Field(problem)) => RawRow::Wrong(problem),
            };
            budget.take(path, row, line.len())?;
            if take(row, raw)?.is_break() {
                return Ok(());
            }
            row += 1;
        }
    }
    Ok(())
}

/// What the footer says, with the Arrow types that the writer kept in it, where these can be read: other programs keep types
/// there that arrow does not know. Texts become views, so that many that are the same are in memory once.
fn metadata(file: &File) -> Result<ArrowReaderMetadata, String> {
    let load = |options: ArrowReaderOptions| {
        guarded(|| ArrowReaderMetadata::load(file, options).map_err(|error| error.to_string()))
    };
    let found = match load(ArrowReaderOptions::new()) {
        Ok(found) => found,
        Err(_) => load(ArrowReaderOptions::new().with_skip_arrow_metadata(true))?,
    };
    let viewed = Arc::new(Schema::new(views(found.schema().fields())));
    let with_views = guarded(|| {
        ArrowReaderMetadata::try_new(found.metadata().clone(), ArrowReaderOptions::new().with_schema(viewed))
            .map_err(|error| error.to_string())
    });
    Ok(with_views.unwrap_or(found))
}

/// The same fields with texts and bytes as views.
fn views(fields: &Fields) -> Fields {
    let inner = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(view(field.data_type())));
    fields.iter().map(inner).collect()
}

fn view(kind: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(field.as_ref().clone().with_data_type(view(field.data_type())));
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        DataType::List(item) => DataType::List(inner(item)),
        DataType::LargeList(item) => DataType::LargeList(inner(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(inner(item), *size),
        DataType::Struct(fields) => DataType::Struct(views(fields)),
        other => other.clone(),
    }
}

/// What is decoded, and how much at a time.
struct ReadPlan {
    /// Columns of the top level, by place.
    roots: Vec<usize>,
    batch_rows: usize,
}

fn plan(file: &File, metadata: &ParquetMetaData, wanted: &Wanted) -> Result<ReadPlan, String> {
    let schema = metadata.file_metadata().schema_descr();
    if schema.num_columns() > COLUMNS {
        return Err(format!("it has {} columns, and at most {COLUMNS} are read", schema.num_columns()));
    }
    let names = schema.root_schema().get_fields().iter().map(|field| field.name());
    let roots: Vec<usize> =
        names.enumerate().filter(|(_, name)| wanted.reads(name)).map(|(place, _)| place).collect();
    let mut batch_rows = BATCH_ROWS as u64;
    for leaf in 0..schema.num_columns() {
        if !roots.contains(&schema.get_column_root_idx(leaf)) {
            continue;
        }
        let column = schema.column(leaf);
        let at = |problem: String| format!("column {:?}: {problem}", column.path().string());
        // Values of a fixed length are laid out one by one, whatever the pages share.
        if column.physical_type() == Type::FIXED_LEN_BYTE_ARRAY {
            let each = u64::try_from(column.type_length()).unwrap_or(0).max(1);
            batch_rows = batch_rows.min((BATCH_BYTES / each).max(1));
        }
        for group in metadata.row_groups() {
            let chunk = group.column(leaf);
            if let Some(problem) = not_built_in(chunk.compression()) {
                return Err(at(problem));
            }
            let (start, length) = guarded(|| Ok(chunk.byte_range())).map_err(at)?;
            let pages = Pages::scan(file, start, length).map_err(at)?;
            if column.max_rep_level() > 0 {
                pages.check_lists(u64::try_from(group.num_rows()).unwrap_or(0)).map_err(at)?;
            }
            // So are those that each share their beginning with the one before.
            if chunk.encodings().any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY) {
                batch_rows = batch_rows.min((BATCH_BYTES / pages.largest.max(1)).max(1));
            }
        }
    }
    Ok(ReadPlan { roots, batch_rows: batch_rows as usize })
}

/// Why a codec's pages cannot be unpacked, with the remedy.
fn not_built_in(codec: Compression) -> Option<String> {
    let name = match codec {
        Compression::BROTLI(_) => "brotli",
        Compression::LZO => "LZO",
        Compression::UNCOMPRESSED
        | Compression::SNAPPY
        | Compression::GZIP(_)
        | Compression::LZ4
        | Compression::LZ4_RAW
        | Compression::ZSTD(_) => return None,
    };
    Some(format!(
        "compressed with {name}, which is not built in; write the file again with zstd, snappy, gzip or lz4 \
         (pyarrow: pq.write_table(pq.read_table(FILE), NEW_FILE, compression=\"zstd\"))"
    ))
}

fn next(batches: &mut ParquetRecordBatchReader) -> Result<Option<RecordBatch>, String> {
    batches.next().transpose().map_err(|error| error.to_string())
}

/// Why a row is not handed over.
enum Unusable {
    TooLarge,
    Field(FieldProblem),
}

fn write_row(
    batch: &RecordBatch,
    place: usize,
    wanted: &Wanted,
    others: &[String],
    most: usize,
    line: &mut Vec<u8>,
) -> Result<(), Unusable> {
    line.clear();
    line.push(b'{');
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let at = |problem: Unwritten| match problem {
            Unwritten::TooLarge => Unusable::TooLarge,
            Unwritten::Value(problem) => {
                Unusable::Field(FieldProblem { field: field.name().clone(), problem })
            }
        };
        let start = line.len();
        if start > 1 {
            line.push(b',');
        }
        let mut writer = Writer { out: line, most, text_wanted: wanted.asks_for(field.name()) };
        writer.text(field.name()).map_err(at)?;
        writer.out.push(b':');
        if !writer.value(column, place).map_err(at)? {
            line.truncate(start);
        }
    }
    for name in others {
        if line.len() > 1 {
            line.push(b',');
        }
        line.extend_from_slice(name.as_bytes());
        line.extend_from_slice(b":null");
    }
    line.push(b'}');
    if line.len() > most { Err(Unusable::TooLarge) } else { Ok(()) }
}

/// As `read`; a panic of the `parquet` crate, which asserts on some damaged pages, is an error.
fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    guard::caught(read).unwrap_or_else(|_| Err("the file is damaged".to_owned()))
}
