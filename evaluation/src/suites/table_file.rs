//! Data files of the suites: JSON Lines, JSON and Parquet as everywhere, and CSV.

use std::path::Path;

use selfplay_records::{RecordError, read_csv_texts, read_values};
use serde_json::Value;

use super::data_row::DataRow;

/// Columns of MMLU's own files, which have no names in them.
const NAMELESS: [&str; 6] = ["question", "A", "B", "C", "D", "answer"];

/// Reads all rows of a file as they stand. A CSV has names in its first line, or, with six columns of which the last is a letter from A
/// to D in the first line too, those of MMLU's own files: question, A, B, C, D, answer.
///
/// # Errors
/// A file that does not read or has no rows.
pub fn read_table(path: &Path) -> Result<Vec<DataRow>, RecordError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if name.ends_with(".csv") { read_csv(path) } else { read_values(path) }
}

fn read_csv(path: &Path) -> Result<Vec<DataRow>, RecordError> {
    let mut lines = read_csv_texts(path)?.into_iter().peekable();
    let is_nameless = lines.peek().is_some_and(|first| {
        first.len() == NAMELESS.len()
            && first.get(5).is_some_and(|last| matches!(last.as_str(), "A" | "B" | "C" | "D"))
    });
    let names: Vec<String> =
        if is_nameless { NAMELESS.map(str::to_owned).to_vec() } else { lines.next().unwrap_or_default() };
    let row =
        |line: Vec<String>| names.iter().cloned().zip(line.into_iter().map(Value::from)).collect::<DataRow>();
    let rows: Vec<DataRow> = lines.map(row).collect();
    if rows.is_empty() {
        return Err(RecordError::Empty { path: path.to_path_buf(), noun: "questions" });
    }
    Ok(rows)
}
