//! Rows as JSON Lines, and as one JSON array where the file is named `.json`.

use std::io::{self, BufRead, Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::Value;

use crate::RecordError;
use crate::large_integer;
use crate::limits::{Budget, Metered, RowMeter};
use crate::raw_row::{RawRow, json_fault};
use crate::shown::quoted;

/// What takes the rows as they are read: the row's number from 0, and the row. A break ends the reading.
pub(crate) type Take<'a> = dyn FnMut(usize, RawRow<'_>) -> Result<ControlFlow<()>, RecordError> + 'a;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Hands over each line that is not blank.
pub(crate) fn each_line(
    path: &Path,
    mut reader: impl BufRead,
    budget: &mut Budget,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let mut line = Vec::new();
    let mut first = true;
    let mut row = 0;
    let most = budget.row_bytes();
    loop {
        line.clear();
        // One byte more than a row may have, and the line's end.
        let mut bounded = (&mut reader).take(most as u64 + 2);
        let read = bounded.read_until(b'\n', &mut line).map_err(|source| RecordError::read(path, source))?;
        if read == 0 {
            return Ok(());
        }
        let bytes = if first { line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line) } else { &line };
        first = false;
        let bytes = bytes.trim_ascii();
        if bytes.len() > most || read > most + 1 || budget.has_too_many_values(bytes) {
            return Err(budget.row_too_large(path, row));
        }
        if !bytes.is_empty() {
            budget.take(path, row, bytes.len())?;
            if take(row, RawRow::Text(bytes))?.is_break() {
                return Ok(());
            }
            row += 1;
        }
    }
}

/// Hands over the elements of a JSON array, or the lines where the file does not begin with `[`.
pub(crate) fn each_element(
    path: &Path,
    mut reader: impl BufRead,
    budget: &mut Budget,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    if first_byte(&mut reader).map_err(|source| RecordError::read(path, source))? != Some(b'[') {
        // So much of the file as one row may have: enough to tell one object over several lines from rows.
        let mut bytes = Vec::new();
        let most = budget.row_bytes() as u64;
        (&mut reader).take(most).read_to_end(&mut bytes).map_err(|source| RecordError::read(path, source))?;
        // What has more values than a row may have is not looked into.
        let lone = (!budget.has_too_many_values(&bytes)).then(|| lone_object(&bytes)).flatten();
        return match lone {
            Some(problem) => Err(RecordError::NotJson { path: path.to_path_buf(), row: 0, problem }),
            None => each_line(path, bytes.as_slice().chain(reader), budget, take),
        };
    }
    let meter = RowMeter::new(budget.row_bytes());
    let mut row = 0;
    let mut ended = None;
    let mut parser = serde_json::Deserializer::from_reader(Metered { reader, meter: &meter });
    let elements =
        Elements { path, meter: &meter, row: &mut row, budget: &mut *budget, take, ended: &mut ended };
    let parsed = elements.deserialize(&mut parser).and_then(|()| parser.end());
    match (ended, parsed) {
        (Some(ended), _) => ended,
        (None, Ok(())) => Ok(()),
        (None, Err(error)) if error.io_error_kind() == Some(io::ErrorKind::FileTooLarge) => {
            Err(budget.row_too_large(path, row))
        }
        (None, Err(error)) if error.is_io() => Err(RecordError::read(path, error.into())),
        (None, Err(error)) => {
            let problem = format!("not JSON: {}", json_fault(&error));
            Err(RecordError::NotJson { path: path.to_path_buf(), row, problem })
        }
    }
}

/// The first byte that is neither a byte order mark nor white space; what is before it is taken off.
fn first_byte(reader: &mut impl BufRead) -> io::Result<Option<u8>> {
    let mut is_start = true;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        if is_start && buffer.starts_with(BYTE_ORDER_MARK) {
            reader.consume(BYTE_ORDER_MARK.len());
            is_start = false;
            continue;
        }
        is_start = false;
        let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if blank < buffer.len() {
            let first = buffer[blank];
            reader.consume(blank);
            return Ok(Some(first));
        }
        reader.consume(blank);
    }
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

/// Hands over an array's elements one by one, so that an error is known to lie in the next, and no more than one is in
/// memory.
struct Elements<'a, 'b> {
    path: &'a Path,
    meter: &'a RowMeter,
    row: &'a mut usize,
    budget: &'a mut Budget,
    take: &'a mut Take<'b>,
    /// How the taker ended the reading before the array's end.
    ended: &'a mut Option<Result<(), RecordError>>,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        while let Some(mut value) = sequence.next_element::<Value>()? {
            large_integer::restore(&mut value, self.meter.large_integers());
            let taken = self
                .budget
                .take(self.path, *self.row, self.meter.next_row())
                .and_then(|()| (self.take)(*self.row, RawRow::Value(value)));
            *self.ended = match taken {
                Ok(ControlFlow::Continue(())) => {
                    *self.row += 1;
                    continue;
                }
                Ok(ControlFlow::Break(())) => Some(Ok(())),
                Err(error) => Some(Err(error)),
            };
            // Only an error stops the parser; `each_element` returns `ended` in its place.
            return Err(A::Error::custom("the reading has ended"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{
        LogProbRow, OnBadPrompt, TokenRow, atomic, read_pairs, read_prompts, read_rows, read_values,
    };

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

    /// The rows of one line of JSON, as a file of lines and as an array.
    fn both_files(line: &str) -> [(tempfile::TempDir, std::path::PathBuf); 2] {
        [("rows.jsonl", format!("{line}\n")), ("rows.json", format!("[{{\"text\": \"first\"}},\n {line}]"))]
            .map(|(name, text)| {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join(name);
                atomic::write_bytes(&path, text.as_bytes()).unwrap();
                (folder, path)
            })
    }

    #[test]
    fn integers_of_more_than_64_bits_keep_their_digits_in_fields_that_are_carried_along() {
        let line =
            r#"{"text": "a", "big": 123456789012345678901, "deep": {"x": [-9223372036854775809, 1e20, 7]}}"#;
        for (_folder, path) in both_files(line) {
            let rows: Vec<TokenRow> = read_rows(&path).unwrap();
            let extra = &rows.last().unwrap().extra;
            assert_eq!(extra["big"], json!("123456789012345678901"), "{path:?}");
            assert_eq!(extra["deep"], json!({"x": ["-9223372036854775809", 1e20, 7]}), "{path:?}");
            // And so on their way through other files.
            for name in ["again.jsonl", "again.parquet"] {
                let again = path.with_file_name(name);
                crate::write_rows(&again, &rows[rows.len() - 1..]).unwrap();
                assert_eq!(read_rows::<TokenRow>(&again).unwrap()[0].extra["big"], extra["big"]);
            }
            let values = read_values(&path).unwrap();
            assert_eq!(values.last().unwrap()["big"], json!("123456789012345678901"));
        }
    }

    #[test]
    fn token_ids_and_scores_of_more_than_64_bits_are_refused_by_name_and_digits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let write = |line: &str| atomic::write_bytes(&path, line.as_bytes()).unwrap();
        let digits = "123456789012345678901";
        write(&format!("{{\"prompt_ids\": [5, {digits}], \"response\": \"x\"}}"));
        for problem in [
            read_rows::<LogProbRow>(&path).unwrap_err().to_string(),
            read_prompts(&path, "prompt", OnBadPrompt::Error).unwrap_err().to_string(),
        ] {
            assert!(problem.contains("row 0: field \"prompt_ids[1]\""), "{problem}");
            assert!(problem.contains(&format!("found {digits}, which has more than 64 bits")), "{problem}");
        }
        write(&format!("{{\"prompt_ids\": [1], \"chosen_ids\": [{digits}], \"rejected_ids\": [2]}}"));
        let problem = read_pairs(&path).unwrap_err().to_string();
        assert!(problem.contains("\"chosen_ids[0]\"") && problem.contains(digits), "{problem}");
        // An id of a prompt is its digits, as of every other integer.
        write(&format!("{{\"prompt_id\": {digits}, \"prompt\": \"x\"}}"));
        let read = read_prompts(&path, "prompt", OnBadPrompt::Error).unwrap();
        assert_eq!(read.prompts[0].prompt_id, digits);
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
