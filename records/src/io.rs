//! Files of rows: JSON Lines, JSON or Parquet, by the file's ending; tables of text are read too.

use std::fs::File;
use std::io::{BufReader, Write};
use std::ops::ControlFlow;
use std::path::Path;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::{Map, Value};

use crate::ids::Ids;
use crate::jsonl::{self, Take};
use crate::limits::{Budget, ROW_BYTES};
use crate::raw_row::RawRow;
use crate::regular::open_regular;
use crate::row_places::RowPlaces;
use crate::{ListLengths, RecordError, Row, WriteError, atomic, delimited, parquet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    JsonLines,
    Json,
    JsonLinesGzip,
    JsonGzip,
    Parquet,
    /// Fields between these bytes; never written.
    Delimited(u8),
}

impl Format {
    fn of(path: &Path) -> Result<Self, RecordError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        [
            (".jsonl", Self::JsonLines),
            (".json", Self::Json),
            (".jsonl.gz", Self::JsonLinesGzip),
            (".json.gz", Self::JsonGzip),
            (".parquet", Self::Parquet),
            (".tsv", Self::Delimited(b'\t')),
            (".csv", Self::Delimited(b',')),
        ]
        .into_iter()
        .find(|(ending, _)| name.ends_with(ending))
        .map(|(_, format)| format)
        .ok_or_else(|| RecordError::Ending { path: path.to_path_buf() })
    }
}

/// Reads all rows of a file, in its order.
///
/// # Errors
/// The file's ending is unknown, it cannot be read, it has no row, or the first row that is not an `R`.
pub fn read_rows<R: Row>(path: &Path) -> Result<Vec<R>, RecordError> {
    rows_of(path, RowPlaces::All)
}

/// Reads the rows of these numbers, in the file's order; those that it has not are left out. Of a file of Parquet no others are
/// decoded.
///
/// # Errors
/// As [`read_rows`], where one of the rows is not there or not an `R`.
pub fn read_rows_at<R: Row>(path: &Path, places: &[usize]) -> Result<Vec<R>, RecordError> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let mut places = places.to_vec();
    places.sort_unstable();
    places.dedup();
    rows_of(path, RowPlaces::These(&places))
}

/// How many rows a file has; of a file of Parquet by its footer alone.
///
/// # Errors
/// As [`read_rows`], but that a file without rows has none.
pub fn count_rows(path: &Path) -> Result<usize, RecordError> {
    if Format::of(path)? == Format::Parquet {
        return parquet::row_count(path, opened(path)?);
    }
    let mut count = 0;
    each_row(path, &Wanted::only([]), &mut |_, _| {
        count += 1;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(count)
}

/// Of each row of a file of Parquet the lengths of the lists `inner` in the objects of its list `outer`; `None` where an object
/// has no such list. `None` of a file in another form, or without such a column. No value is made of the lists.
///
/// # Errors
/// A file that is damaged or cannot be read.
pub fn read_list_lengths(path: &Path, outer: &str, inner: &str) -> Result<Option<ListLengths>, RecordError> {
    if Format::of(path)? != Format::Parquet {
        return Ok(None);
    }
    parquet::list_lengths(path, opened(path)?, outer, inner)
}

fn opened(path: &Path) -> Result<File, RecordError> {
    open_regular(path).map_err(|source| RecordError::read(path, source))
}

fn rows_of<R: Row>(path: &Path, places: RowPlaces<'_>) -> Result<Vec<R>, RecordError> {
    let mut rows: Vec<R> = Vec::new();
    // Of each row, and whether its id is to be that.
    let mut numbers = Vec::new();
    let wanted = Wanted::of::<R>();
    each_row_of(path, R::MOST_BYTES, &wanted, places, &mut |number, raw| {
        let TypedRow { row, is_numbered } = TypedRow::of(path, number, raw)?;
        numbers.push((number, is_numbered));
        rows.push(row);
        Ok(ControlFlow::Continue(()))
    })?;
    if rows.is_empty() {
        return Err(RecordError::Empty { path: path.to_path_buf(), noun: R::NOUN });
    }
    let mut ids = Ids::default();
    for (row, &(number, is_numbered)) in rows.iter().zip(&numbers) {
        if let Some(id) = row.identity() {
            ids.add(path, number, id, is_numbered)?;
        }
    }
    Ok(rows)
}

/// Hands each row of a file with its number, from 0, to `take`, and holds no more than one of them; of rows that have ids of their own
/// all ids are kept.
///
/// # Errors
/// As [`read_rows`], and an error of `take`, at which the reading ends.
pub fn stream_rows<R: Row, E: From<RecordError>>(
    path: &Path,
    take: &mut dyn FnMut(usize, R) -> Result<(), E>,
) -> Result<(), E> {
    let (mut ids, mut is_empty, mut refused) = (Ids::default(), true, None);
    each_row_of(path, R::MOST_BYTES, &Wanted::of::<R>(), RowPlaces::All, &mut |number, raw| {
        let TypedRow { row, is_numbered } = TypedRow::<R>::of(path, number, raw)?;
        is_empty = false;
        if let Some(id) = row.identity() {
            ids.add(path, number, id, is_numbered)?;
        }
        refused = take(number, row).err();
        Ok(if refused.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match refused {
        Some(error) => Err(error),
        None if is_empty => Err(RecordError::Empty { path: path.to_path_buf(), noun: R::NOUN }.into()),
        None => Ok(()),
    }
}

/// A row that was read and checked.
struct TypedRow<R> {
    row: R,
    /// Whether its id is its number, because it had none.
    is_numbered: bool,
}

impl<R: Row> TypedRow<R> {
    fn of(path: &Path, number: usize, raw: RawRow<'_>) -> Result<Self, RecordError> {
        let mut row: R = raw.into_row().map_err(|problem| problem.at(path, number))?;
        let is_numbered = row.identity() == Some("");
        row.number(number);
        row.check().map_err(|problem| RecordError::Field {
            path: path.to_path_buf(),
            row: number,
            problem,
        })?;
        Ok(Self { row, is_numbered })
    }
}

/// Writes rows in their order: whole or not at all.
///
/// # Errors
/// The file's ending is unknown, a row cannot be stored, or the file system refuses.
pub fn write_rows<R: Row>(path: &Path, rows: &[R]) -> Result<(), RecordError> {
    let format = Format::of(path)?;
    for (number, row) in rows.iter().enumerate() {
        if let Err(problem) = row.check() {
            let problem = format!("row {number}: {problem}");
            return Err(RecordError::Encode { path: path.to_path_buf(), noun: R::NOUN, problem });
        }
    }
    let written = match format {
        Format::JsonLines => atomic::write(path, |sink| jsonl::write_lines(sink, rows)),
        Format::Json => atomic::write(path, |sink| jsonl::write_array(sink, rows)),
        Format::JsonLinesGzip => gzip(path, |sink| jsonl::write_lines(sink, rows)),
        Format::JsonGzip => gzip(path, |sink| jsonl::write_array(sink, rows)),
        Format::Parquet => return parquet::write(path, rows),
        Format::Delimited(_) => return Err(RecordError::Ending { path: path.to_path_buf() }),
    };
    Ok(written?)
}

/// Reads all rows as they stand, for layouts that are not ours.
///
/// # Errors
/// As [`read_rows`]; the rows only need to be JSON objects.
pub fn read_values(path: &Path) -> Result<Vec<Map<String, Value>>, RecordError> {
    values(path, &Wanted::all([]))
}

/// As [`read_values`], but only the named columns; of a file of Parquet no others are looked at.
///
/// # Errors
/// As [`read_values`].
pub fn read_columns(path: &Path, columns: &[&str]) -> Result<Vec<Map<String, Value>>, RecordError> {
    values(path, &Wanted::only(columns.iter().map(|&name| name.to_owned())))
}

/// Hands the named columns of each row to `take`, until that breaks off, and holds no more than one row. Of a file of Parquet no other
/// columns are looked at; a row of any other file comes with all of its own.
///
/// # Errors
/// The file cannot be read, or a row is no object. A file without rows is none.
pub fn each_columns(
    path: &Path,
    columns: &[&str],
    take: &mut dyn FnMut(usize, Map<String, Value>) -> ControlFlow<()>,
) -> Result<(), RecordError> {
    let wanted = Wanted::only(columns.iter().map(|&name| name.to_owned()));
    each_row(path, &wanted, &mut |number, raw| {
        Ok(take(number, raw.into_map().map_err(|problem| problem.at(path, number))?))
    })
}

fn values(path: &Path, wanted: &Wanted) -> Result<Vec<Map<String, Value>>, RecordError> {
    let mut rows = Vec::new();
    each_row(path, wanted, &mut |number, raw| {
        rows.push(raw.into_map().map_err(|problem| problem.at(path, number))?);
        Ok(ControlFlow::Continue(()))
    })?;
    if rows.is_empty() {
        return Err(RecordError::Empty { path: path.to_path_buf(), noun: "anything" });
    }
    Ok(rows)
}

/// The columns that a reader needs. In Parquet no others are decoded.
pub(crate) struct Wanted {
    /// Read for what they hold, which must be what a row can have.
    names: Vec<String>,
    /// Whether the others are carried along.
    carries: bool,
}

impl Wanted {
    /// What a kind of row reads.
    fn of<R: Row>() -> Self {
        match R::columns() {
            Some(names) => Self::only(names),
            None => Self::all(R::schema(&[]).into_iter().map(|column| column.name)),
        }
    }

    /// These columns alone.
    pub(crate) fn only(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect(), carries: false }
    }

    /// These columns, and the others carried along.
    pub(crate) fn all(names: impl IntoIterator<Item = String>) -> Self {
        Self { names: names.into_iter().collect(), carries: true }
    }

    /// Whether the column is decoded.
    pub(crate) fn reads(&self, name: &str) -> bool {
        self.carries || self.asks_for(name)
    }

    /// Whether its values are read, and not merely carried along.
    pub(crate) fn asks_for(&self, name: &str) -> bool {
        self.names.iter().any(|one| one == name)
    }
}

/// Hands each row of a file to `take`, until that breaks off.
pub(crate) fn each_row(path: &Path, wanted: &Wanted, take: &mut Take<'_>) -> Result<(), RecordError> {
    each_row_of(path, ROW_BYTES, wanted, RowPlaces::All, take)
}

/// As [`each_row`], of the rows at some places, of at most `row_bytes`.
fn each_row_of(
    path: &Path,
    row_bytes: usize,
    wanted: &Wanted,
    places: RowPlaces<'_>,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let format = Format::of(path)?;
    let read = |source| RecordError::read(path, source);
    let file = opened(path)?;
    let budget = &mut Budget::of(file.metadata().map_err(read)?.len(), row_bytes);
    let mut picked = |row: usize, raw: RawRow<'_>| match row {
        row if places.has(row) => take(row, raw),
        row if places.ends_before(row) => Ok(ControlFlow::Break(())),
        _ => Ok(ControlFlow::Continue(())),
    };
    match format {
        Format::JsonLines => jsonl::each_line(path, BufReader::new(file), budget, &mut picked),
        Format::Json => jsonl::each_element(path, BufReader::new(file), budget, &mut picked),
        Format::JsonLinesGzip => {
            jsonl::each_line(path, BufReader::new(MultiGzDecoder::new(file)), budget, &mut picked)
        }
        Format::JsonGzip => {
            jsonl::each_element(path, BufReader::new(MultiGzDecoder::new(file)), budget, &mut picked)
        }
        Format::Parquet => parquet::each_row(path, file, wanted, places, budget, take),
        Format::Delimited(delimiter) => delimited::each_record(path, delimiter, file, budget, &mut picked),
    }
}

fn gzip(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), WriteError> {
    atomic::write(path, |sink| {
        let mut encoder = GzEncoder::new(sink, Compression::default());
        fill(&mut encoder)?;
        encoder.finish().map(drop)
    })
}
