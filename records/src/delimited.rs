//! Rows of tables as text, `.tsv` and `.csv`: the first row names the columns, every value is text. They are read, never written.
//!
//! Fields are quoted as in CSV (RFC 4180): in double quotes, a quote among them twice. A column without a name (an index that
//! other programs write) is left out.

use std::io::{self, Read};
use std::path::Path;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use crate::jsonl::Take;
use crate::limits::{Budget, COLUMNS, Metered, RowMeter};
use crate::raw_row::RawRow;
use crate::shown::quoted;
use crate::{RecordError, open_regular};

/// A record behind the last one. Where it becomes part of a field, that field's quote is never closed: what follows a stray quote would be
/// one text to the end of the file.
const END: &[u8] = b"\n\0end of the table\0";

/// Hands over each row of a table whose fields stand between `delimiter`s.
pub(crate) fn each_record(
    path: &Path,
    delimiter: u8,
    reader: impl Read,
    budget: &mut Budget,
    take: &mut Take<'_>,
) -> Result<(), RecordError> {
    let meter = RowMeter::new(budget.row_bytes());
    let mut table = ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(Metered { reader, meter: &meter }.chain(END));
    let mut record = ByteRecord::new();
    if !next(path, &mut table, &mut record, 0, budget)? {
        return Ok(());
    }
    let columns = columns(path, &record)?;
    let mut row = 0;
    loop {
        meter.next_row();
        if !next(path, &mut table, &mut record, row, budget)? {
            return Ok(());
        }
        budget.take(path, row, record.as_slice().len())?;
        let wrong = |problem| RecordError::NotJson { path: path.to_path_buf(), row, problem };
        if record.len() != columns.len() {
            return Err(wrong(format!(
                "has {} fields, expected the {} that the first line names; a field with a separator, a quote or a line's end in it \
                 stands in double quotes",
                record.len(),
                columns.len()
            )));
        }
        let mut fields = Map::new();
        for (name, bytes) in columns.iter().zip(record.iter()).filter(|(name, _)| !name.is_empty()) {
            let text = std::str::from_utf8(bytes).map_err(|error| {
                let at = error.valid_up_to();
                wrong(format!("expected UTF-8 in the column {name:?}, found other bytes from byte {at} on"))
            })?;
            fields.insert(name.clone(), text.into());
        }
        if take(row, RawRow::Value(Value::Object(fields)))?.is_break() {
            return Ok(());
        }
        row += 1;
    }
}

/// Reads the next record; `false` at the end.
fn next<R: Read>(
    path: &Path,
    table: &mut csv::Reader<R>,
    record: &mut ByteRecord,
    row: usize,
    budget: &Budget,
) -> Result<bool, RecordError> {
    let wrong = |problem| RecordError::NotJson { path: path.to_path_buf(), row, problem };
    let is_there = table.read_byte_record(record).map_err(|error| match error.into_kind() {
        ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::FileTooLarge => {
            budget.row_too_large(path, row)
        }
        ErrorKind::Io(source) => RecordError::read(path, source),
        other => wrong(format!("{other:?}")),
    })?;
    if !is_there {
        return Ok(false);
    }
    match ends_with(record) {
        TableEnd::Before => Ok(true),
        TableEnd::Here => Ok(false),
        TableEnd::InQuote => Err(wrong(UNCLOSED.to_owned())),
    }
}

const UNCLOSED: &str = "a field opens with a double quote that is never closed; a quote at a field's beginning that is part of its text is \
                        written three times, and twice within it";

/// How a record stands to [`END`].
enum TableEnd {
    Before,
    Here,
    InQuote,
}

fn ends_with(record: &ByteRecord) -> TableEnd {
    let end = &END[1..];
    match record.iter().next_back() {
        Some(last) if last == end && record.len() == 1 => TableEnd::Here,
        Some(last) if last.ends_with(end) => TableEnd::InQuote,
        _ => TableEnd::Before,
    }
}

/// Bytes of a file that is held in memory whole.
const MOST_TEXT: u64 = 1 << 30;

/// All records of a CSV file as texts, its first line among them; each has as many fields as the first.
///
/// # Errors
/// A file that does not read or is no regular one, bytes that are not UTF-8, a line with more or fewer fields, a quote that is never closed:
/// all of it the user's matter, with the line from 1.
pub fn read_csv_texts(path: &Path) -> Result<Vec<Vec<String>>, RecordError> {
    let file = open_regular(path).map_err(|source| RecordError::read(path, source))?;
    let bytes = file.metadata().map_err(|source| RecordError::read(path, source))?.len();
    if bytes > MOST_TEXT {
        let problem = format!("{bytes} bytes, and a CSV file that is held in memory may have {MOST_TEXT}");
        return Err(RecordError::read(path, invalid(problem)));
    }
    let mut table = ReaderBuilder::new().has_headers(false).flexible(true).from_reader(file.chain(END));
    let mut record = ByteRecord::new();
    let mut texts: Vec<Vec<String>> = Vec::new();
    loop {
        let is_there = table.read_byte_record(&mut record).map_err(|error| match error.into_kind() {
            ErrorKind::Io(source) => RecordError::read(path, source),
            other => RecordError::read(path, invalid(format!("{other:?}"))),
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let wrong = |problem: String| RecordError::read(path, invalid(format!("line {line}: {problem}")));
        match ends_with(&record) {
            TableEnd::Before if is_there => {}
            TableEnd::InQuote => return Err(wrong(UNCLOSED.to_owned())),
            _ => return Ok(texts),
        }
        if let Some(first) = texts.first().filter(|first| first.len() != record.len()) {
            let problem =
                format!("has {} fields, expected {} as in the first line", record.len(), first.len());
            return Err(wrong(problem));
        }
        let text = |field: &[u8]| match std::str::from_utf8(field) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(wrong("expected UTF-8, found other bytes".to_owned())),
        };
        texts.push(record.iter().map(text).collect::<Result<_, _>>()?);
    }
}

fn invalid(problem: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// The names of the columns, which are of their own.
fn columns(path: &Path, first: &ByteRecord) -> Result<Vec<String>, RecordError> {
    let wrong = |problem| RecordError::NotJson { path: path.to_path_buf(), row: 0, problem };
    if first.len() > COLUMNS {
        return Err(wrong(format!(
            "the first line names {} columns, {COLUMNS} at most are read",
            first.len()
        )));
    }
    let mut names: Vec<String> = Vec::with_capacity(first.len());
    for bytes in first {
        let name = std::str::from_utf8(bytes)
            .map_err(|_| wrong("the first line is to name the columns, in UTF-8".to_owned()))?;
        let name = name.trim();
        if !name.is_empty() && names.iter().any(|other| other == name) {
            return Err(wrong(format!("the first line names the column {:?} twice", quoted(name))));
        }
        names.push(name.to_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::{HasKind, Kind, atomic, read_values};

    fn read(name: &str, bytes: &[u8]) -> Result<Vec<serde_json::Value>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        atomic::write_bytes(&path, bytes).unwrap();
        match read_values(&path) {
            Ok(rows) => Ok(rows.into_iter().map(Into::into).collect()),
            Err(error) => {
                assert_eq!(error.kind(), Kind::Input, "{error}");
                Err(error.to_string())
            }
        }
    }

    #[test]
    fn a_quote_that_is_never_closed_is_named() {
        for (name, text, row) in [
            ("a.csv", "prompt,x\na,1\n\"b,2\nc,3\n", "row 1: a field opens with a double quote"),
            ("a.csv", "prompt,x\na,\"1", "row 0: a field opens with a double quote"),
            ("a.tsv", "prompt\tx\na\t\"1\nb\t2\n", "row 0: a field opens with a double quote"),
            ("a.csv", "\"prompt,x\na,1\n", "row 0: a field opens with a double quote"),
        ] {
            let error = read(name, text.as_bytes()).unwrap_err();
            assert!(error.contains(row), "{error}");
        }
        // Quotes within a field that does not open with one are text, and one at the end closes.
        assert_eq!(read("a.csv", b"a,b\nx \"y,\"z\"").unwrap(), [json!({"a": "x \"y", "b": "z"})]);
        assert_eq!(read("a.csv", b"a\n\"\"\"x\"\n").unwrap(), [json!({"a": "\"x"})]);
        assert_eq!(read("a.csv", b"a\n\"x\"\n\n\n").unwrap(), [json!({"a": "x"})]);
    }

    #[test]
    fn texts_of_a_csv_file_are_whole_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        let read = |bytes: &[u8]| {
            atomic::write_bytes(&path, bytes).unwrap();
            crate::read_csv_texts(&path).map_err(|error| {
                assert_eq!(error.kind(), Kind::Input, "{error}");
                error.to_string()
            })
        };
        assert_eq!(read(b"\xef\xbb\xbfa,b\r\n\"1\n2\",3\r\n").unwrap(), [["a", "b"], ["1\n2", "3"]]);
        assert_eq!(read(b"").unwrap(), Vec::<Vec<String>>::new());
        for (bytes, words) in [
            (b"a,b\n1\n".as_slice(), "line 2: has 1 fields, expected 2"),
            (b"a,b\n1,\xe9\n", "line 2: expected UTF-8"),
            (b"a,b\n1,\"2\n3,4\n", "line 2: a field opens"),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!(crate::read_csv_texts(folder.path()).unwrap_err().kind(), Kind::Input);
    }

    #[test]
    fn tables_are_rows_of_texts() {
        let text = "\u{feff}\tprompt\tchosen\trejected\r\n0\t问 \"a\"\t\"two\nlines, \"\"quoted\"\"\"\t\r\n\n1\tb\t[1]\tc\n";
        let rows = read("zhihu.tsv", text.as_bytes()).unwrap();
        assert_eq!(
            rows,
            [
                json!({"prompt": "问 \"a\"", "chosen": "two\nlines, \"quoted\"", "rejected": ""}),
                json!({"prompt": "b", "chosen": "[1]", "rejected": "c"}),
            ]
        );
        assert_eq!(read("x.CSV", b"a,b\n1,\"2,3\"").unwrap(), [json!({"a": "1", "b": "2,3"})]);
    }

    #[test]
    fn wrong_tables_are_refused_by_row() {
        let fails = |bytes: &[u8], words: &str| {
            let text = read("x.tsv", bytes).unwrap_err();
            assert!(text.contains(words), "{text}");
        };
        fails(b"a\tb\n1\t2\n1\t2\t3\n", "row 1: has 3 fields, expected the 2");
        fails(b"a\tb\n1\n", "row 0: has 1 fields");
        fails(b"a\ta\n1\t2\n", "row 0: the first line names the column \"a\" twice");
        fails(b"a\tb\n1\t\xff\n", "row 0: expected UTF-8 in the column \"b\"");
        fails(b"a\tb\n", "no rows");
        fails(b"", "no rows");
    }
}
