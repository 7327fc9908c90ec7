//! Rows as JSON Lines, and as one JSON array where the file is named `.json`.

use std::io::{self, BufRead, Write};
use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, SeqAccess, Visitor};
use serde_json::Value;

use crate::RecordError;
use crate::raw_row::{RawRow, json_fault};
use crate::shown::quoted;

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
        return match lone_object(bytes) {
            Some(problem) => Err(RecordError::NotJson { path: path.to_path_buf(), row: 0, problem }),
            None => each_line(path, bytes, take),
        };
    }
    let mut values = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    if let Err(error) = Elements(&mut values).deserialize(&mut parser).and_then(|()| parser.end()) {
        let problem = format!("not JSON: {}", json_fault(&error));
        return Err(RecordError::NotJson { path: path.to_path_buf(), row: values.len(), problem });
    }
    values.into_iter().enumerate().try_for_each(|(row, value)| take(row, RawRow::Value(value)))
}

/// What is wrong with a file that is one object over several lines: perhaps rows with a frame around them.
fn lone_object(bytes: &[u8]) -> Option<String> {
    let first_line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    if serde_json::from_slice::<Value>(first_line).is_ok() {
        return None;
    }
    let Ok(Value::Object(object)) = serde_json::from_slice(bytes) else { return None };
    let names = object.keys().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
    let remedy = match object.iter().find(|(_, value)| value.as_array().is_some_and(|rows| !rows.is_empty()))
    {
        Some((name, _)) => format!("; {:?} holds an array: make that the whole file", quoted(name)),
        None => String::new(),
    };
    let names = quoted(&names);
    Some(format!(
        "the file is one JSON object, with the fields {names}; expected an array of rows, or one row a line{remedy}"
    ))
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

#[cfg(test)]
mod tests {
    use crate::{atomic, read_values};

    fn problem(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.json");
        atomic::write_bytes(&path, text.as_bytes()).unwrap();
        match read_values(&path) {
            Ok(rows) => format!("{} rows", rows.len()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_frame_around_the_rows_is_named() {
        let framed = problem("{\n  \"version\": 1,\n  \"data\": [\n    {\"prompt\": \"a\"}\n  ]\n}\n");
        assert!(framed.contains("one JSON object, with the fields \"version\", \"data\""), "{framed}");
        assert!(framed.contains("\"data\" holds an array: make that the whole file"), "{framed}");
        assert!(!framed.contains("not JSON"), "{framed}");
        assert!(problem("{\n\"prompt\": \"a\"\n}").ends_with("an array of rows, or one row a line"));
        assert_eq!(problem("{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n"), "2 rows");
        assert!(problem("{\n\"prompt\": \n").contains("not JSON"));
    }

    #[test]
    fn half_a_character_is_named() {
        for text in
            ["[{\"prompt\": \"x \\ud83d y\"}]", "{\"prompt\": \"x \\ude00 y\"}", "{\"prompt\": \"\\ud83d\"}"]
        {
            let told = problem(text);
            assert!(told.contains("half of a character") && told.contains("column"), "{told}");
        }
    }
}
