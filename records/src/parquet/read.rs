//! Reading: footer and pages are measured, the wanted columns are decoded, each row becomes a line of JSON.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ::parquet::basic::{Compression, Encoding, Type};
use ::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};

use super::leaf::Leaf;
use super::node::{self, ColumnNode};
use super::pages::Pages;
use super::value::{Unwritten, Writer};
use super::{arrow_types, footer};
use crate::io::Wanted;
use crate::jsonl::Take;
use crate::limits::{Budget, COLUMNS};
use crate::raw_row::RawRow;
use crate::row_places::RowPlaces;
use crate::{FieldProblem, RecordError, checksum, guard};

/// Rows decoded at a time: bounds memory, whatever the file's size.
const BATCH_ROWS: usize = 1024;
/// Bytes that a batch of values may take which are decoded one by one.
const BATCH_BYTES: u64 = 256 << 20;
/// Names of other columns that a row keeps, so that a message can say what is there.
const OTHER_NAMES: usize = 32;
/// What is said of a file whose parts do not fit together.
pub(super) const DAMAGED: &str = "the file is damaged";

/// The metadata of a file that is what was written.
///
/// # Errors
/// A checksum that is not the file's, a footer that cannot be read or is beyond its bounds.
pub(super) fn metadata(path: &Path, file: &mut File) -> Result<ParquetMetaData, RecordError> {
    let wrong = |problem: String| RecordError::Parquet { path: path.to_path_buf(), problem };
    checksum::verify(path, file)?;
    footer::check(file).map_err(wrong)?;
    let parse = || ParquetMetaDataReader::new().parse_and_finish(&*file).map_err(|error| error.to_string());
    guarded(parse).map_err(wrong)
}

/// Hands over rows as JSON: the wanted columns with their values, the names of some others with null.
pub(crate) fn each_row(
    path: &Path,
    mut file: File,
    wanted: &Wanted,
    places: RowPlaces<'_>,
    budget: &mut Budget,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let wrong = |problem: String| RecordError::Parquet { path: path.to_path_buf(), problem };
    let metadata = metadata(path, &mut file)?;
    let plan = ReadPlan::of(&file, &metadata, wanted).map_err(wrong)?;
    let file = Arc::new(file);
    let mut line = Vec::new();
    let mut row = 0;
    for group in metadata.row_groups() {
        let mut leaves = guarded(|| plan.open(&file, &metadata, group)).map_err(wrong)?;
        let mut left = usize::try_from(group.num_rows()).map_err(|_| wrong(DAMAGED.to_owned()))?;
        while left > 0 && !places.ends_before(row) {
            let span = places.span(row, left);
            if span.passed > 0 {
                guarded(|| plan.skip(&mut leaves, &metadata, span.passed)).map_err(wrong)?;
                row += span.passed;
                left -= span.passed;
                continue;
            }
            let rows = span.taken.min(plan.batch_rows);
            left -= rows;
            guarded(|| plan.fill(&mut leaves, &metadata, rows)).map_err(wrong)?;
            for _ in 0..rows {
                let raw = match plan.write_row(&mut leaves, budget.row_bytes(), &mut line) {
                    Ok(()) if budget.has_too_many_values(&line) => {
                        return Err(budget.row_too_large(path, row));
                    }
                    Ok(()) => RawRow::Text(&line),
                    Err(Unusable::TooLarge) => return Err(budget.row_too_large(path, row)),
                    Err(Unusable::Field(problem)) => RawRow::Wrong(problem),
                    Err(Unusable::Damaged) => return Err(wrong(DAMAGED.to_owned())),
                };
                budget.take(path, row, line.len())?;
                if take(row, raw)?.is_break() {
                    return Ok(());
                }
                row += 1;
            }
        }
    }
    Ok(())
}

/// What is decoded, and how much at a time.
struct ReadPlan {
    columns: Vec<ReadColumn>,
    /// Columns of the file's lowest level, by place, in the order of their fields.
    leaves: Vec<usize>,
    /// Names of fields that are not read, as JSON.
    others: Vec<String>,
    batch_rows: usize,
}

/// A field of the rows.
struct ReadColumn {
    name: String,
    node: ColumnNode,
    text_wanted: bool,
}

impl ReadPlan {
    fn of(file: &File, metadata: &ParquetMetaData, wanted: &Wanted) -> Result<Self, String> {
        let schema = metadata.file_metadata().schema_descr();
        if schema.num_columns() > COLUMNS {
            return Err(format!("it has {} columns, and at most {COLUMNS} are read", schema.num_columns()));
        }
        let roots = schema.root_schema().get_fields();
        let mut leaves_of = vec![Vec::new(); roots.len()];
        for leaf in 0..schema.num_columns() {
            if let Some(leaves) = leaves_of.get_mut(schema.get_column_root_idx(leaf)) {
                leaves.push(leaf);
            }
        }
        let mut plan =
            Self { columns: Vec::new(), leaves: Vec::new(), others: Vec::new(), batch_rows: BATCH_ROWS };
        // Theirs are the same fields in the same order, or none that are of use.
        let arrow = arrow_types::of_file(metadata.file_metadata());
        for (place, (root, leaves)) in roots.iter().zip(leaves_of).enumerate() {
            let name = root.name().to_owned();
            if !wanted.reads(&name) {
                if plan.others.len() < OTHER_NAMES {
                    plan.others.extend(serde_json::to_string(&name).ok());
                }
                continue;
            }
            let at = |problem: String| format!("column {name:?}: {problem}");
            let node = guarded(|| node::of_root(root, plan.leaves.len())).map_err(at)?;
            if let Some(mut node) = node {
                if let Some(field) = arrow.get(place).filter(|field| field.name() == name) {
                    node.refine(field);
                }
                plan.leaves.extend(leaves);
                if node.leaves.end != plan.leaves.len() {
                    return Err(at(DAMAGED.to_owned()));
                }
                let text_wanted = wanted.asks_for(&name);
                plan.columns.push(ReadColumn { name, node, text_wanted });
            }
        }
        plan.measure(file, metadata)?;
        Ok(plan)
    }

    /// Checks the pages of the columns, and how many rows of them may be decoded at a time.
    fn measure(&mut self, file: &File, metadata: &ParquetMetaData) -> Result<(), String> {
        let schema = metadata.file_metadata().schema_descr();
        let mut batch_rows = BATCH_ROWS as u64;
        for &leaf in &self.leaves {
            let column = schema.column(leaf);
            let at = |problem: String| format!("column {:?}: {problem}", column.path().string());
            // Values of a fixed length are laid out one by one, whatever the pages share.
            if column.physical_type() == Type::FIXED_LEN_BYTE_ARRAY {
                let each = u64::try_from(column.type_length()).unwrap_or(0).max(1);
                batch_rows = batch_rows.min((BATCH_BYTES / each).max(1));
            }
            for group in metadata.row_groups() {
                let chunk = group.columns().get(leaf).ok_or_else(|| at(DAMAGED.to_owned()))?;
                let pages = checked_pages(file, group, leaf, column.max_rep_level() > 0).map_err(at)?;
                // So are those that each share their beginning with the one before.
                if chunk.encodings().any(|encoding| encoding == Encoding::DELTA_BYTE_ARRAY) {
                    batch_rows = batch_rows.min((BATCH_BYTES / pages.largest.max(1)).max(1));
                }
            }
        }
        self.batch_rows = batch_rows as usize;
        Ok(())
    }

    fn open(
        &self,
        file: &Arc<File>,
        metadata: &ParquetMetaData,
        group: &RowGroupMetaData,
    ) -> Result<Vec<Leaf>, String> {
        let schema = metadata.file_metadata().schema_descr();
        self.leaves.iter().map(|&leaf| Leaf::open(file, group, leaf, &schema.column(leaf))).collect()
    }

    fn fill(&self, leaves: &mut [Leaf], metadata: &ParquetMetaData, rows: usize) -> Result<(), String> {
        let schema = metadata.file_metadata().schema_descr();
        for (leaf, &place) in leaves.iter_mut().zip(&self.leaves) {
            leaf.fill(rows)
                .map_err(|problem| format!("column {:?}: {problem}", schema.column(place).path().string()))?;
        }
        Ok(())
    }

    /// Passes over the next `rows` rows.
    fn skip(&self, leaves: &mut [Leaf], metadata: &ParquetMetaData, rows: usize) -> Result<(), String> {
        let schema = metadata.file_metadata().schema_descr();
        for (leaf, &place) in leaves.iter_mut().zip(&self.leaves) {
            leaf.skip(rows)
                .map_err(|problem| format!("column {:?}: {problem}", schema.column(place).path().string()))?;
        }
        Ok(())
    }

    /// Writes the next row, and takes all of it whatever comes of that.
    fn write_row(&self, leaves: &mut [Leaf], most: usize, line: &mut Vec<u8>) -> Result<(), Unusable> {
        line.clear();
        line.push(b'{');
        let mut refused = None;
        for column in &self.columns {
            let range = column.node.leaves.clone();
            if refused.is_none() {
                let mut writer = Writer { out: line, most, text_wanted: column.text_wanted, leaves };
                match writer.field(&column.name, &column.node, 1) {
                    Ok(()) => {}
                    Err(Unwritten::TooLarge) => return Err(Unusable::TooLarge),
                    Err(Unwritten::Damaged) => return Err(Unusable::Damaged),
                    Err(Unwritten::Value(problem)) => {
                        refused = Some(FieldProblem { field: column.name.clone(), problem });
                    }
                }
            }
            for leaf in leaves.get_mut(range).unwrap_or_default() {
                leaf.end_row(refused.is_some()).map_err(|_| Unusable::Damaged)?;
            }
        }
        if let Some(problem) = refused {
            return Err(Unusable::Field(problem));
        }
        for name in &self.others {
            if line.len() > 1 {
                line.push(b',');
            }
            line.extend_from_slice(name.as_bytes());
            line.extend_from_slice(b":null");
        }
        line.push(b'}');
        if line.len() > most { Err(Unusable::TooLarge) } else { Ok(()) }
    }
}

/// The pages of a column in a row group, none of which is more than may be unpacked.
///
/// # Errors
/// A codec that is not built in, headers that cannot be read, pages beyond their bounds.
pub(super) fn checked_pages(
    file: &File,
    group: &RowGroupMetaData,
    leaf: usize,
    is_of_lists: bool,
) -> Result<Pages, String> {
    let chunk = group.columns().get(leaf).ok_or_else(|| DAMAGED.to_owned())?;
    if let Some(problem) = not_built_in(chunk.compression()) {
        return Err(problem);
    }
    let (start, length) = guarded(|| Ok(chunk.byte_range()))?;
    let pages = Pages::scan(file, start, length)?;
    if is_of_lists {
        pages.check_lists(u64::try_from(group.num_rows()).unwrap_or(0))?;
    }
    Ok(pages)
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

/// Why a row is not handed over.
enum Unusable {
    TooLarge,
    Field(FieldProblem),
    Damaged,
}

/// As `read`; a panic of the `parquet` crate, which asserts on some damaged pages, is an error.
pub(super) fn guarded<T>(read: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    guard::caught(read).unwrap_or_else(|_| Err(DAMAGED.to_owned()))
}
