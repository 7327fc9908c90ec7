//! One row before its type is known: from text to a typed row, or to the field that is wrong.
//!
//! serde reports what is wrong but not where. [`field_at_fault`] finds it by trying the row again without each field:
//! the one whose absence changes the complaint is the one complained about. Of a list, beginnings of it are tried.

use std::cell::Cell;

use serde_json::{Map, Value};

use crate::error::RowProblem;
use crate::large_integer::{self, is_large};
use crate::{FieldProblem, Row};

/// A row as its file holds it.
pub(crate) enum RawRow<'a> {
    /// A line of JSON Lines, perhaps not JSON at all.
    Text(&'a [u8]),
    /// An element of a JSON array.
    Value(Value),
    /// A row of columns, one of which holds what no row can have.
    Wrong(FieldProblem),
}

impl RawRow<'_> {
    /// The row's fields.
    pub(crate) fn into_map(self) -> Result<Map<String, Value>, RowProblem> {
        let value = match self {
            Self::Text(bytes) => parse(bytes)?,
            Self::Value(value) => value,
            Self::Wrong(problem) => return Err(problem.into()),
        };
        match value {
            Value::Object(map) => Ok(map),
            other => Err(RowProblem::NotJson(format!("expected a JSON object, found {}", kind(&other)))),
        }
    }

    /// The row as an `R`, not yet checked.
    pub(crate) fn into_row<R: Row>(self) -> Result<R, RowProblem> {
        if let Self::Text(bytes) = &self
            && large_integer::find(bytes).is_empty()
            && let Ok(row) = serde_json::from_slice(bytes)
        {
            return Ok(row);
        }
        let map = self.into_map()?;
        let complaint = |map: &Map<String, Value>| {
            R::deserialize(&Value::Object(map.clone())).err().map(|error| error.to_string())
        };
        match complaint(&map) {
            Some(text) => Err(field_at_fault::<R>(&map, &text, &complaint)),
            // An array's element ends here; a line only where it names a field twice and the last one is right.
            None => {
                R::deserialize(Value::Object(map)).map_err(|error| RowProblem::NotJson(error.to_string()))
            }
        }
    }
}

fn parse(bytes: &[u8]) -> Result<Value, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        RowProblem::NotJson(format!("expected UTF-8, found other bytes from byte {} on", error.valid_up_to()))
    })?;
    let mut value = serde_json::from_str(text).map_err(|error| {
        // A line is a whole text to the parser: its line number would be 1 always.
        let reason = json_fault(&error).replace(" at line 1 column ", " at column ");
        let hint = if ["NaN", "Infinity"].iter().any(|word| text.contains(word)) {
            "; JSON has no NaN and no Infinity"
        } else {
            ""
        };
        RowProblem::NotJson(format!("not JSON: {reason}{hint}; expected one JSON object a line"))
    })?;
    large_integer::restore(&mut value, large_integer::find(bytes));
    Ok(value)
}

/// serde_json's complaint, with what it says of half a surrogate pair in plainer words.
pub(crate) fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let half = ["unexpected end of hex escape", "lone leading surrogate in hex escape"];
    match half.iter().find_map(|complaint| text.strip_prefix(complaint)) {
        Some(place) => format!(
            "a \\u escape with half of a character (a lone surrogate){place}; write both halves, or the character itself"
        ),
        None => text,
    }
}

fn field_at_fault<R: Row>(
    map: &Map<String, Value>,
    complaint: &str,
    complaint_of: &dyn Fn(&Map<String, Value>) -> Option<String>,
) -> RowProblem {
    if let Some(problem) = FieldProblem::from_text(complaint) {
        return problem.into();
    }
    let columns = R::schema(&[]);
    let described =
        |name: &str| columns.iter().find(|column| column.name == name).map(|column| column.kind.describe());
    let trials = Cell::new(most_trials(map));
    let again = |row: &Map<String, Value>| {
        trials.set(trials.get().saturating_sub(1));
        complaint_of(row)
    };
    let missing = complaint.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`'));
    // A name that is no column is missing further in.
    if let Some(name) = missing
        && !map.contains_key(name)
        && let Some(expected) = described(name)
    {
        return FieldProblem::new(name, expected, "no such field").into();
    }
    for (name, value) in map {
        if trials.get() == 0 {
            break;
        }
        let with = |value: Option<Value>| again(&exchanged(map, name, value));
        if with(None).as_deref() == Some(complaint) {
            continue;
        }
        let part = part_at_fault(value, complaint, &trials, &|value| with(Some(value)));
        if let Some(missing) = missing {
            let field = format!("{name}{}", part.path);
            return FieldProblem::new(field, format!("an object with {missing:?}"), "none in it").into();
        }
        let expected = match described(name) {
            Some(expected) if part.path.is_empty() => expected,
            _ => expected_by_serde(complaint),
        };
        return FieldProblem::new(format!("{name}{}", part.path), expected, found(&part.value)).into();
    }
    RowProblem::NotJson(shorten(complaint))
}

/// The innermost part of a field that is complained about.
struct FaultyPart {
    /// From the field on: `[3].ids`.
    path: String,
    value: Value,
}

/// How often a row is tried again: fewer times where it has many values, so that a large row takes seconds and not hours.
fn most_trials(row: &Map<String, Value>) -> usize {
    const VALUES: usize = 1 << 23;
    fn count(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
            Value::Object(fields) => 1 + fields.values().map(count).sum::<usize>(),
            _ => 1,
        }
    }
    (VALUES / row.values().map(count).sum::<usize>().max(1)).clamp(64, 4096)
}

/// The same fields in their order, but that `name` is `value`, or is not there.
fn exchanged(fields: &Map<String, Value>, name: &str, mut value: Option<Value>) -> Map<String, Value> {
    let one = |(known, held): (&String, &Value)| {
        let held = if known == name { value.take()? } else { held.clone() };
        Some((known.clone(), held))
    };
    fields.iter().filter_map(one).collect()
}

fn part_at_fault(
    value: &Value,
    complaint: &str,
    trials: &Cell<usize>,
    again: &dyn Fn(Value) -> Option<String>,
) -> FaultyPart {
    let complains = |value: Value| again(value).as_deref() == Some(complaint);
    let inner = match value {
        Value::Array(items) => first_at_fault(items, &complains).and_then(|index| {
            let alone = |item: Value| again(Value::Array(vec![item]));
            let item = &items[index];
            (alone(item.clone()).as_deref() == Some(complaint)).then(|| {
                let part = part_at_fault(item, complaint, trials, &alone);
                FaultyPart { path: format!("[{index}]{}", part.path), value: part.value }
            })
        }),
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            if trials.get() == 0 {
                return None;
            }
            let with = |field: Option<Value>| again(Value::Object(exchanged(fields, name, field)));
            let without = with(None);
            // A field that is missing is not found by taking away one that this object needs as well.
            let needed = complaint.starts_with("missing field `")
                && without.as_deref() == Some(format!("missing field `{name}`").as_str());
            (without.as_deref() != Some(complaint) && !needed).then(|| {
                let part = part_at_fault(field, complaint, trials, &|field| with(Some(field)));
                FaultyPart { path: format!(".{name}{}", part.path), value: part.value }
            })
        }),
        _ => None,
    };
    inner.unwrap_or_else(|| FaultyPart { path: String::new(), value: value.clone() })
}

/// The place of the first item at fault: items are read in their order, up to the first of which there is something to complain. `None`
/// where the complaint is none of an item's.
fn first_at_fault(items: &[Value], complains: &dyn Fn(Value) -> bool) -> Option<usize> {
    let of_first = |count: usize| complains(Value::Array(items[..count].to_vec()));
    if of_first(0) {
        return None;
    }
    // The first `low` items are right, and the first `high` are not.
    let (mut low, mut high) = (0, items.len());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if of_first(middle) { high = middle } else { low = middle }
    }
    high.checked_sub(1)
}

/// serde's "…, expected Y" in our words.
fn expected_by_serde(complaint: &str) -> String {
    let expected = complaint.rsplit_once("expected ").map_or(complaint, |(_, expected)| expected);
    match expected {
        "a sequence" => "an array".to_owned(),
        "u32" => "an integer from 0 to 4294967295".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "struct Message" => "an object with \"role\" and \"content\"".to_owned(),
        "struct Response" => "an object with \"text\"".to_owned(),
        other => shorten(&other.replace('`', "\"")),
    }
}

/// A value's kind, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value for a message: numbers and short strings themselves, else the kind.
pub(crate) fn found(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) if text.is_empty() => "an empty string".to_owned(),
        Value::String(text) if is_large(text) => format!("{text}, which has more than 64 bits"),
        Value::Array(items) if items.is_empty() => "an empty array".to_owned(),
        other => kind(other).to_owned(),
    }
}

/// At most 120 characters of `text`.
pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
