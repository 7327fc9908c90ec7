//! The map from a layout's fields to a file's columns.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::FieldProblem;

/// Which column of the file holds a field of the layout, where their names differ.
pub type ColumnMap = BTreeMap<String, String>;

/// Fields that a row may lack.
const OPTIONAL: [&str; 6] = ["input", "context", "history", "system", "system_prompt", "prompt_id"];

/// Puts the columns of a map in the place of its fields. A column that is taken for a field is no longer there under its own
/// name, unless it is a field as well.
pub(super) fn rename(row: &mut Map<String, Value>, columns: &ColumnMap) -> Result<(), FieldProblem> {
    if columns.is_empty() {
        return Ok(());
    }
    let mut taken = Vec::with_capacity(columns.len());
    for (field, column) in columns {
        match row.get(column) {
            Some(value) => taken.push((field.clone(), value.clone())),
            None if OPTIONAL.contains(&field.as_str()) => {}
            None => {
                let names: Vec<&str> = row.keys().map(String::as_str).collect();
                let expected = format!("the column that columns.{field} names");
                return Err(FieldProblem::new(column, expected, format!("only [{}]", names.join(", "))));
            }
        }
    }
    for column in columns.values() {
        row.remove(column);
    }
    for field in columns.keys() {
        row.remove(field);
    }
    row.extend(taken);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn renamed(row: Value, columns: &[(&str, &str)]) -> Result<Value, String> {
        let Value::Object(mut row) = row else { panic!("an object is wanted") };
        let columns = columns.iter().map(|(field, column)| ((*field).into(), (*column).into())).collect();
        rename(&mut row, &columns).map_err(|problem| problem.to_string())?;
        Ok(Value::Object(row))
    }

    #[test]
    fn columns_become_fields_even_where_they_change_places() {
        let row = json!({"q": "a", "output": "b", "other": 1});
        let expected = json!({"other": 1, "prompt": "a", "response": "b"});
        assert_eq!(renamed(row, &[("prompt", "q"), ("response", "output")]).unwrap(), expected);
        let swapped = renamed(
            json!({"chosen": "a", "rejected": "b"}),
            &[("chosen", "rejected"), ("rejected", "chosen")],
        );
        assert_eq!(swapped.unwrap(), json!({"chosen": "b", "rejected": "a"}));
    }

    #[test]
    fn a_column_that_is_absent_is_named() {
        let error = renamed(json!({"a": 1}), &[("prompt", "question")]).unwrap_err();
        assert_eq!(
            error,
            "field \"question\": expected the column that columns.prompt names, found only [a]"
        );
        assert_eq!(renamed(json!({"a": 1}), &[("input", "context")]).unwrap(), json!({"a": 1}));
    }
}
