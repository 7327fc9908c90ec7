//! Column types of a row's other fields, which some kinds of rows carry along.
//!
//! A column takes the type that all its values agree on; integers and other numbers agree on floats. Where they don't agree,
//! or no column of Parquet could hold them as they are (integers of both signs beyond 64 bits, objects without fields, or of more
//! fields than a file has columns, nulls beside lists or objects), the column is text: a string as it stands, anything else as its JSON. So no value changes, and
//! nothing fails after hours of work.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use crate::limits::COLUMNS;
use crate::{ColumnSpec, ColumnType};

/// Columns, those inside of objects each by itself, beside the few that are ours.
const MOST_LEAVES: usize = COLUMNS - 32;

/// A column of fields that are not ours.
pub(crate) struct ExtraColumn {
    name: String,
    kind: ExtraType,
}

enum ExtraType {
    /// Values as they are.
    Typed(ColumnType),
    /// Values that do not go together, as text.
    Text,
}

impl ExtraColumn {
    /// The column as it is written.
    pub(crate) fn into_spec(self) -> ColumnSpec {
        let kind = match self.kind {
            ExtraType::Typed(kind) => kind,
            ExtraType::Text => ColumnType::Text,
        };
        ColumnSpec::new(self.name, kind)
    }

    /// The name, where values have to become text.
    pub(crate) fn as_text(&self) -> Option<&str> {
        matches!(self.kind, ExtraType::Text).then_some(self.name.as_str())
    }
}

/// The columns of all fields that some row has, in the order of their first appearance.
pub(crate) fn columns(rows: &[&Map<String, Value>]) -> Vec<ExtraColumn> {
    let mut names: Vec<&str> = Vec::new();
    let mut values: HashMap<&str, Vec<&Value>> = HashMap::new();
    for row in rows {
        for (name, value) in row.iter().filter(|(_, value)| !value.is_null()) {
            values
                .entry(name)
                .or_insert_with(|| {
                    names.push(name);
                    Vec::new()
                })
                .push(value);
        }
    }
    let column = |name: &str| {
        let kind = kind(values.get(name).map_or(&[], Vec::as_slice));
        ExtraColumn { name: name.to_owned(), kind }
    };
    let mut columns: Vec<ExtraColumn> = names.into_iter().map(column).collect();
    narrow(&mut columns, MOST_LEAVES);
    columns
}

/// Objects of very many fields become text, the widest first, until there are no more columns in all than a file is read with.
fn narrow(columns: &mut [ExtraColumn], most: usize) {
    let leaves = |column: &ExtraColumn| match &column.kind {
        ExtraType::Typed(kind) => kind.leaves(),
        ExtraType::Text => 1,
    };
    let mut total: usize = columns.iter().map(leaves).sum();
    while total > most {
        // Of equals the first.
        let widest = columns.iter_mut().rev().max_by_key(|column| leaves(column));
        let Some(widest) = widest.filter(|column| leaves(column) > 1) else { return };
        total -= leaves(widest) - 1;
        widest.kind = ExtraType::Text;
    }
}

/// A value of a text column.
pub(crate) fn to_text(value: &Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value.clone(),
        other => Value::String(other.to_string()),
    }
}

fn kind(values: &[&Value]) -> ExtraType {
    let mut shape = Shape::Unknown;
    for value in values {
        match Shape::of(value).and_then(|other| shape.with(other)) {
            Some(joined) => shape = joined,
            None => return ExtraType::Text,
        }
    }
    match shape {
        Shape::Unsigned => ExtraType::Typed(ColumnType::UInt64),
        shape => shape.column_type().map_or(ExtraType::Text, ExtraType::Typed),
    }
}

/// What values have in common.
#[derive(Clone, Debug, PartialEq)]
enum Shape {
    /// Of no value.
    Unknown,
    /// Items of a list that are all null.
    Nulls,
    Bool,
    /// Integers that a column of signed ones holds; `exact`: all of them a column of floats holds too.
    Integer {
        exact: bool,
        negative: bool,
    },
    /// Integers from 0 on, some of them beyond the signed ones.
    Unsigned,
    Float,
    Text,
    List(Box<Shape>),
    Object(Vec<(String, Shape)>),
}

/// Up to here a float holds every integer.
const EXACT: u64 = 1 << 53;

impl Shape {
    /// `None` where the value alone does not go together.
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Null => Self::Unknown,
            Value::Bool(_) => Self::Bool,
            Value::Number(number) => Self::of_number(number),
            Value::String(_) => Self::Text,
            Value::Array(items) => {
                let mut inner = Self::Unknown;
                for item in items {
                    let item = if item.is_null() { Self::Nulls } else { Self::of(item)? };
                    inner = inner.with(item)?;
                }
                let has_nulls = items.iter().any(Value::is_null);
                if has_nulls && matches!(inner, Self::List(_) | Self::Object(_)) {
                    return None;
                }
                Self::List(Box::new(inner))
            }
            Value::Object(fields) => {
                let mut shapes = Vec::with_capacity(fields.len());
                for (name, field) in fields {
                    shapes.push((name.clone(), Self::of(field)?));
                }
                Self::Object(shapes)
            }
        })
    }

    fn of_number(number: &Number) -> Self {
        match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => {
                Self::Integer { exact: integer.unsigned_abs() <= EXACT, negative: integer < 0 }
            }
            (None, Some(_)) => Self::Unsigned,
            (None, None) => Self::Float,
        }
    }

    /// What this and `other` have in common.
    fn with(self, other: Self) -> Option<Self> {
        Some(match (self, other) {
            (Self::Unknown, shape) | (shape, Self::Unknown) => shape,
            (Self::Nulls, shape) | (shape, Self::Nulls) => shape,
            (Self::Integer { exact: a, negative: c }, Self::Integer { exact: b, negative: d }) => {
                Self::Integer { exact: a && b, negative: c || d }
            }
            (Self::Integer { exact: true, .. }, Self::Float)
            | (Self::Float, Self::Integer { exact: true, .. }) => Self::Float,
            (Self::Integer { negative: false, .. }, Self::Unsigned)
            | (Self::Unsigned, Self::Integer { negative: false, .. }) => Self::Unsigned,
            (Self::List(a), Self::List(b)) => Self::List(Box::new(a.with(*b)?)),
            (Self::Object(mut a), Self::Object(b)) => {
                for (name, shape) in b {
                    let is_full = a.len() >= COLUMNS;
                    match a.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = std::mem::replace(known, Self::Unknown).with(shape)?,
                        None if is_full => return None,
                        None => a.push((name, shape)),
                    }
                }
                Self::Object(a)
            }
            (a, b) if a == b => a,
            _ => return None,
        })
    }

    /// The column that holds such values; `None` where only text does: objects without fields, and integers beyond the
    /// signed ones inside of other values.
    fn column_type(self) -> Option<ColumnType> {
        Some(match self {
            Self::Unknown => ColumnType::Null,
            Self::Nulls | Self::Text => ColumnType::Text,
            Self::Bool => ColumnType::Bool,
            Self::Integer { .. } => ColumnType::Int64,
            Self::Float => ColumnType::Float64,
            Self::List(inner) => inner.column_type()?.list(),
            Self::Object(fields) if !fields.is_empty() => {
                let field = |(name, shape): (String, Self)| Some(ColumnSpec::new(name, shape.column_type()?));
                ColumnType::Struct(fields.into_iter().map(field).collect::<Option<_>>()?)
            }
            Self::Object(_) | Self::Unsigned => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind_of(values: &[Value]) -> Option<ColumnType> {
        match kind(&values.iter().collect::<Vec<_>>()) {
            ExtraType::Typed(kind) => Some(kind),
            ExtraType::Text => None,
        }
    }

    #[test]
    fn values_that_agree_keep_their_type() {
        assert_eq!(kind_of(&[json!(1), json!(null), json!(-2)]), Some(ColumnType::Int64));
        assert_eq!(kind_of(&[json!(1), json!(2.5)]), Some(ColumnType::Float64));
        assert_eq!(kind_of(&[json!(1), json!(u64::MAX)]), Some(ColumnType::UInt64));
        assert_eq!(kind_of(&[json!(u64::MAX), json!(i64::MAX as u64 + 1)]), Some(ColumnType::UInt64));
        assert_eq!(kind_of(&[json!("a")]), Some(ColumnType::Text));
        assert_eq!(kind_of(&[json!([])]), Some(ColumnType::Null.list()));
        assert_eq!(kind_of(&[json!([null]), json!([])]), Some(ColumnType::Text.list()));
        assert_eq!(kind_of(&[json!([1]), json!([]), json!([null, 2.5])]), Some(ColumnType::Float64.list()));
        let fields = vec![
            ColumnSpec::new("a", ColumnType::Int64),
            ColumnSpec::new("n", ColumnType::Null),
            ColumnSpec::new("b", ColumnType::Text),
        ];
        let objects = [json!({"a": 1, "n": null}), json!({"b": "x"})];
        assert_eq!(kind_of(&objects), Some(ColumnType::Struct(fields)));
    }

    #[test]
    fn the_widest_objects_are_text_where_there_are_too_many_columns() {
        let row = |n: usize| {
            let names = |count: usize| (0..count).map(move |i| (format!("{n}_{i}"), json!(1)));
            let field = |count| Value::Object(names(count).collect());
            Map::from_iter([
                ("a".to_owned(), field(2)),
                ("b".to_owned(), field(3)),
                ("c".to_owned(), field(3)),
            ])
        };
        let rows: Vec<_> = (0..10).map(row).collect();
        let text = |most| {
            let mut columns = columns(&rows.iter().collect::<Vec<_>>());
            narrow(&mut columns, most);
            columns.iter().filter_map(ExtraColumn::as_text).collect::<String>()
        };
        assert_eq!([80, 79, 51, 50, 22, 21, 2].map(text), ["", "b", "b", "bc", "bc", "abc", "abc"]);
        // Keys of their own in each row, as of objects that are tables.
        let rows: Vec<_> = (0..COLUMNS / 3).map(row).collect();
        let columns = columns(&rows.iter().collect::<Vec<_>>());
        assert_eq!(columns.iter().filter_map(ExtraColumn::as_text).collect::<String>(), "bc");
    }

    #[test]
    fn what_no_column_holds_is_text() {
        for mixed in [
            vec![json!(1), json!("a")],
            vec![json!(true), json!(1)],
            vec![json!([1]), json!(1)],
            vec![json!([1, "a"])],
            vec![json!({"a": 1}), json!({"a": "x"})],
            vec![json!({})],
            vec![json!({"a": {}})],
            vec![json!(9_007_199_254_740_993_i64), json!(0.5)],
            vec![json!(-1), json!(u64::MAX)],
            vec![json!([u64::MAX])],
            vec![json!([null, [1]])],
            vec![json!([{"a": 1}, null])],
        ] {
            assert_eq!(kind_of(&mixed), None, "{mixed:?}");
        }
        assert_eq!(to_text(&json!("a")), json!("a"));
        assert_eq!(to_text(&json!({"a": [1, null]})), json!("{\"a\":[1,null]}"));
    }
}
