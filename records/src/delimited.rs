//! Rows of tables as text, `.tsv` and `.csv`: the first row names the columns, every value is text. They are read, never written.
//!
//! Fields are quoted as in CSV (RFC 4180): in double quotes, a quote among them twice. A column without a name (an index that
//! other programs write) is left out.

use std::io::Read;
use std::path::Path;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::{Map, Value};

use crate::RecordError;
use crate::jsonl::Take;
use crate::limits::{Budget, COLUMNS, Metered, RowMeter};
use crate::raw_row::RawRow;
use crate::shown::quoted;

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
        .from_reader(Metered { reader, meter: &meter });
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
    table.read_byte_record(record).map_err(|error| match error.into_kind() {
        ErrorKind::Io(source) if source.kind() == std::io::ErrorKind::FileTooLarge => {
            budget.row_too_large(path, row)
        }
        ErrorKind::Io(source) => RecordError::read(path, source),
        other => RecordError::NotJson { path: path.to_path_buf(), row, problem: format!("{other:?}") },
    })
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
