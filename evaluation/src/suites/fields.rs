//! Fields of a suite's rows, with messages that name them.

use selfplay_records::FieldProblem;
use serde_json::Value;

use super::data_row::DataRow;

/// A field's value, or a problem that says what it should be.
fn field<'r>(row: &'r DataRow, name: &str, expected: &str) -> Result<&'r Value, FieldProblem> {
    row.get(name).filter(|value| !value.is_null()).ok_or_else(|| {
        let names = row.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        FieldProblem::new(name, expected, format!("nothing; the row has {names}"))
    })
}

pub(super) fn text<'r>(row: &'r DataRow, name: &str) -> Result<&'r str, FieldProblem> {
    let value = field(row, name, "a text")?;
    value.as_str().ok_or_else(|| FieldProblem::new(name, "a text", value))
}

/// A text, or an integer's digits.
pub(super) fn text_or_integer(row: &DataRow, name: &str) -> Result<String, FieldProblem> {
    let expected = "a text or an integer";
    match field(row, name, expected)? {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string()),
        other => Err(FieldProblem::new(name, expected, other)),
    }
}

pub(super) fn texts(row: &DataRow, name: &str) -> Result<Vec<String>, FieldProblem> {
    let expected = "a list of texts";
    texts_of(field(row, name, expected)?).ok_or_else(|| FieldProblem::new(name, expected, &row[name]))
}

pub(super) fn texts_of(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

pub(super) fn object<'r>(row: &'r DataRow, name: &str) -> Result<&'r DataRow, FieldProblem> {
    let expected = "an object";
    let value = field(row, name, expected)?;
    value.as_object().ok_or_else(|| FieldProblem::new(name, expected, value))
}

/// A whole number of 0 or more, written as a number (an integral float too) or as its digits.
pub(super) fn index(row: &DataRow, name: &str) -> Result<usize, FieldProblem> {
    let expected = "an integer of 0 or more";
    let value = field(row, name, expected)?;
    index_of(value).ok_or_else(|| FieldProblem::new(name, expected, value))
}

pub(super) fn index_of(value: &Value) -> Option<usize> {
    match value {
        Value::String(digits) => digits.trim().parse().ok(),
        Value::Number(number) => match number.as_u64() {
            Some(number) => usize::try_from(number).ok(),
            None => {
                number.as_f64().filter(|x| *x >= 0.0 && x.fract() == 0.0 && *x < 1e15).map(|x| x as usize)
            }
        },
        _ => None,
    }
}
