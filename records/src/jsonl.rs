//! Rows as JSON Lines, and as one JSON array where the file is named `.json`.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use crate::RecordError;
use crate::raw_row::RawRow;

/// What takes the rows as they are read: the row's number from 0, and the row.
pub(crate) type Take<'a> = dyn FnMut(usize, RawRow<'_>) -> Result<(), RecordError> + 'a;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Hands over each line that is not blank.
pub(crate) fn each_line(
    path: &Path,
    mut reader: impl BufRead,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let mut line = Vec::new();
    let mut first = true;
    let mut row = 0;
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line).map_err(|source| RecordError::read(path, source))? == 0 {
            return Ok(());
        }
        let bytes = if first { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        first = false;
        let bytes = bytes.trim_ascii();
        if !bytes.is_empty() {
            take(row, RawRow::Text(bytes))?;
            row += 1;
        }
    }
}

/// Hands over the elements of a JSON array, or the lines where the file does not begin with `[`.
pub(crate) fn each_element(
    path: &Path,
    mut reader: impl BufRead,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes).map_err(|source| RecordError::read(path, source))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes).trim_ascii();
    if !bytes.starts_with(b"[") {
        return each_line(path, bytes, take);
    }
    let mut values = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    if let Err(error) = Elements(&mut values).deserialize(&mut parser).and_then(|()| parser.end()) {
        let problem = format!("not JSON: {error}");
        return Err(RecordError::NotJson { path: path.to_path_buf(), row: values.len(), problem });
    }
    values.into_iter().enumerate().try_for_each(|(row, value)| take(row, RawRow::Value(value)))
}

/// Writes one row a line.
pub(crate) fn write_lines<R: Serialize>(sink: &mut dyn Write, rows: &[R]) -> io::Result<()> {
    for row in rows {
        serde_json::to_writer(&mut *sink, row)?;
        sink.write_all(b"\n")?;
    }
    Ok(())
}

/// Writes an array with one row a line.
pub(crate) fn write_array<R: Serialize>(sink: &mut dyn Write, rows: &[R]) -> io::Result<()> {
    sink.write_all(b"[")?;
    for (number, row) in rows.iter().enumerate() {
        sink.write_all(if number == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *sink, row)?;
    }
    sink.write_all(b"\n]\n")
}

/// Gathers an array's elements one by one, so that an error is known to lie in the next.
struct Elements<'a>(&'a mut Vec<Value>);

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(value) = sequence.next_element()? {
            self.0.push(value);
        }
        Ok(())
    }
}
