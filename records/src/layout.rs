//! Turns of conversations in the layouts that data sets are published in.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::raw_row::{found, kind};
use crate::{FieldProblem, Message};

/// The turns in `value`: `[{role, content}]`, or `[{from, value}]` as ShareGPT has them.
pub(crate) fn messages(field: &str, value: &Value) -> Result<Vec<Message>, FieldProblem> {
    let Value::Array(turns) = value else {
        return Err(FieldProblem::new(field, "an array of messages", found(value)));
    };
    turns.iter().enumerate().map(|(index, turn)| message(&format!("{field}[{index}]"), turn)).collect()
}

/// One turn: `{role, content}` or `{from, value}`.
pub(crate) fn message(field: &str, value: &Value) -> Result<Message, FieldProblem> {
    let Value::Object(turn) = value else {
        return Err(FieldProblem::new(field, "an object with \"role\" and \"content\"", found(value)));
    };
    if turn.contains_key("from") && !turn.contains_key("role") {
        let role = string(turn, field, "from")?;
        let role = match role {
            "human" | "user" => "user",
            "gpt" | "assistant" | "chatgpt" | "model" | "bing" | "bard" | "function_call" => "assistant",
            "system" => "system",
            "tool" | "observation" => "tool",
            other => {
                let known = "human, gpt, system, tool, observation or function_call";
                return Err(FieldProblem::new(format!("{field}.from"), known, format!("{other:?}")));
            }
        };
        return Ok(Message::new(role, string(turn, field, "value")?));
    }
    let has_more = ["tool_calls", "tool_call_id", "name"].iter().any(|name| present(turn, name).is_some());
    if has_more || turn.get("content").is_some_and(Value::is_array) {
        string(turn, field, "role")?;
        return Message::deserialize(value).map_err(|error| {
            let expected = "a text, parts that are all {\"type\": \"text\", \"text\": …}, or calls of tools";
            FieldProblem::new(format!("{field}.content"), expected, error)
        });
    }
    Ok(Message::new(string(turn, field, "role")?, string(turn, field, "content")?))
}

/// The fields of a row with what they hold, for a message: `prompt (null), chosen (a string)`.
pub(crate) fn fields(row: &Map<String, Value>) -> String {
    row.iter().map(|(name, value)| format!("{name} ({})", kind(value))).collect::<Vec<_>>().join(", ")
}

/// A list of token ids, or the first that is none.
pub(crate) fn token_ids(field: &str, value: &Value) -> Result<Vec<u32>, FieldProblem> {
    let Value::Array(ids) = value else {
        return Err(FieldProblem::new(field, "an array of token ids", found(value)));
    };
    let id = |(index, id): (usize, &Value)| {
        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            FieldProblem::new(format!("{field}[{index}]"), "an integer from 0 to 4294967295", found(id))
        })
    };
    ids.iter().enumerate().map(id).collect()
}

fn string<'a>(turn: &'a Map<String, Value>, field: &str, name: &str) -> Result<&'a str, FieldProblem> {
    match turn.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(FieldProblem::new(format!("{field}.{name}"), "a string", found(other))),
        None => Err(FieldProblem::new(format!("{field}.{name}"), "a string", "no such field")),
    }
}

/// The row's field, null counting as absent.
pub(crate) fn present<'a>(row: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|value| !value.is_null())
}

/// The row's text field.
pub(crate) fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a str, FieldProblem> {
    match row.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(FieldProblem::new(name, "a string", found(other))),
        None => Err(FieldProblem::new(name, "a string", "no such field")),
    }
}

/// The row's text field, if it has one that is not empty.
pub(crate) fn optional_text<'a>(
    row: &'a Map<String, Value>,
    name: &str,
) -> Result<Option<&'a str>, FieldProblem> {
    match present(row, name) {
        Some(_) => Ok(Some(text(row, name)?).filter(|text| !text.is_empty())),
        None => Ok(None),
    }
}

/// Alpaca's prompt: `system`, `history` (pairs of user and assistant), then `instruction` with `input` on the next
/// line where it is not empty.
pub(crate) fn alpaca_prompt(row: &Map<String, Value>) -> Result<Vec<Message>, FieldProblem> {
    let mut turns = system(row)?;
    if let Some(history) = present(row, "history") {
        let wrong =
            |found: String| FieldProblem::new("history", "an array of [user, assistant] texts", found);
        let Value::Array(rounds) = history else { return Err(wrong(found(history))) };
        for (index, round) in rounds.iter().enumerate() {
            let texts = round.as_array().map(Vec::as_slice);
            let Some([Value::String(user), Value::String(assistant)]) = texts else {
                return Err(wrong(format!("another value at [{index}]")));
            };
            turns.extend([Message::user(user.as_str()), Message::assistant(assistant.as_str())]);
        }
    }
    let instruction = text(row, "instruction")?;
    turns.push(Message::user(match optional_text(row, "input")? {
        Some(input) => format!("{instruction}\n{input}"),
        None => instruction.to_owned(),
    }));
    Ok(turns)
}

/// Columns that hold the system's turn beside the others, in the layouts that have one.
pub(crate) const SYSTEM: [&str; 2] = ["system", "system_prompt"];

/// The row's `system` (or `system_prompt`) text as a first turn, or no turn.
pub(crate) fn system(row: &Map<String, Value>) -> Result<Vec<Message>, FieldProblem> {
    for name in SYSTEM {
        if let Some(text) = optional_text(row, name)? {
            return Ok(vec![Message::new("system", text)]);
        }
    }
    Ok(Vec::new())
}

/// The conversation with the row's `system` text as its first turn, unless it begins with such a turn itself.
pub(crate) fn with_system(
    row: &Map<String, Value>,
    turns: Vec<Message>,
) -> Result<Vec<Message>, FieldProblem> {
    if turns.is_empty() || turns.first().is_some_and(|first| first.role == "system") {
        return Ok(turns);
    }
    let mut all = system(row)?;
    all.extend(turns);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_id_at_fault_is_named() {
        assert_eq!(token_ids("prompt_ids", &json!([1, 4294967295_u32])).unwrap(), [1, u32::MAX]);
        for (ids, place, shown) in [
            (json!([1, 2.0]), "prompt_ids[1]", "found 2.0"),
            (json!([-1]), "prompt_ids[0]", "found -1"),
            (json!([0, 0, 4294967296_u64]), "prompt_ids[2]", "found 4294967296"),
            (json!([1, "2"]), "prompt_ids[1]", "found a string"),
            (json!("1"), "prompt_ids", "found a string"),
        ] {
            let problem = token_ids("prompt_ids", &ids).unwrap_err().to_string();
            assert!(
                problem.starts_with(&format!("field \"{place}\"")) && problem.ends_with(shown),
                "{problem}"
            );
        }
    }

    #[test]
    fn fields_are_told_with_what_they_hold() {
        let row = json!({"prompt": null, "chosen": "a", "rejected": 7});
        let Value::Object(row) = row else { unreachable!() };
        assert_eq!(fields(&row), "prompt (null), chosen (a string), rejected (a number)");
    }
}
