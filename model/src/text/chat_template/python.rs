//! What Jinja templates expect of Python: printing, `tojson`, string methods, `raise_exception`.
//!
//! Departures of minijinja that this mends: it prints true, none and lists in its own way, its `tojson` escapes
//! HTML and leaves no spaces, and it knows fewer string methods.

use std::cell::Cell;
use std::error::Error as _;
use std::fmt::Write;

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// The filter that every assigned value goes through.
pub(super) const WITHIN_BOUNDS: &str = "within_bounds";
/// Bytes that a variable may hold.
const MOST_VALUE: usize = 64 << 20;
/// What a value takes beside its text, roughly.
const ITEM_BYTES: usize = 64;
/// Nesting of lists and maps that is printed.
const MOST_DEPTH: usize = 64;

thread_local! {
    /// Bytes that the rendering on this thread may still print. Text collected in a variable (`{% set x %}`) never
    /// reaches the writer, so the writer's own bound does not see it.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Allows the next rendering on this thread to print `most` bytes.
pub(super) fn start_counting(most: usize) {
    LEFT.set(most);
}

/// Gives the environment Python's manners.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, _, value| {
        let text = match value.as_str() {
            Some(text) => {
                count(text.len())?;
                return out.write_str(text).map_err(Error::from);
            }
            None => printed(value)?,
        };
        out.write_str(&text).map_err(Error::from)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Refusal(message)))
    });
    environment.add_filter("tojson", to_json);
    environment.add_filter(WITHIN_BOUNDS, |value: Value| {
        let mut left = MOST_VALUE;
        weigh(&value, &mut left, 0).map(|()| value)
    });
    environment.add_filter("string", |value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => printed(&value).map(Value::from),
    });
}

/// What `raise_exception` said, where the error is its doing.
pub(super) fn refusal(error: &Error) -> Option<&str> {
    in_chain::<Refusal>(error).map(|refusal| refusal.0.as_str())
}

/// Whether the rendering was stopped because it printed too much.
pub(super) fn is_too_much(error: &Error) -> bool {
    in_chain::<TooMuch>(error).is_some()
}

fn in_chain<T: std::error::Error + 'static>(error: &Error) -> Option<&T> {
    let mut source = error.source();
    while let Some(inner) = source {
        if let Some(found) = inner.downcast_ref::<T>() {
            return Some(found);
        }
        source = inner.source();
    }
    None
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refusal(String);

#[derive(Debug, thiserror::Error)]
#[error("too much text")]
struct TooMuch;

fn count(bytes: usize) -> Result<(), Error> {
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(too_much()),
    }
}

fn too_much() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too much text").with_source(TooMuch)
}

/// Takes the size of a value, all that it holds counted as often as it would print, from `left`.
fn weigh(value: &Value, left: &mut usize, depth: usize) -> Result<(), Error> {
    let own = ITEM_BYTES + value.as_str().map_or(0, str::len);
    *left = left.checked_sub(own).ok_or_else(too_much)?;
    if depth > MOST_DEPTH {
        return Err(too_much());
    }
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.try_for_each(|item| weigh(&item, left, depth + 1))
        }
        ValueKind::Map => value.try_iter()?.try_for_each(|key| {
            weigh(&key, left, depth + 1)?;
            weigh(&value.get_item(&key)?, left, depth + 1)
        }),
        _ => Ok(()),
    }
}

/// `str(value)`.
fn printed(value: &Value) -> Result<String, Error> {
    let mut text = String::new();
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::String => text.push_str(value.as_str().unwrap_or("")),
        _ => repr(value, &mut text, 0)?,
    }
    count(text.len())?;
    Ok(text)
}

/// `repr(value)`.
fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    bound(out, depth)?;
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(value.as_str().unwrap_or(""), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&item, out, depth + 1)?;
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
            }
            out.push('}');
        }
        _ => write!(out, "{value}").map_err(Error::from)?,
    }
    Ok(())
}

/// A string as Python's repr quotes it.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// Lists may hold one another many times over: printing is bounded while it goes on.
fn bound(out: &str, depth: usize) -> Result<(), Error> {
    if depth > MOST_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply to be printed"));
    }
    if out.len() > LEFT.get() {
        return count(out.len());
    }
    Ok(())
}

/// How `json.dumps` lays a value out.
struct JsonStyle {
    indent: Option<String>,
    between: String,
    after_key: String,
    ascii: bool,
    sort: bool,
}

/// `json.dumps` with transformers' default of `ensure_ascii=False`.
fn to_json(value: Value, positional: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    // tojson(ensure_ascii, indent, separators, sort_keys), all optional.
    let argument = |place: usize, name: &str| -> Result<Value, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or_else(|| positional.get(place).cloned()).unwrap_or_default())
    };
    let ascii = argument(0, "ensure_ascii")?.is_true();
    let indent = argument(1, "indent")?;
    let separators = argument(2, "separators")?;
    let sort = argument(3, "sort_keys")?.is_true();
    kwargs.assert_all_used()?;
    let indent = match (indent.as_str(), indent.as_usize()) {
        (Some(text), _) => Some(text.to_owned()),
        (None, Some(width)) if width <= 64 => Some(" ".repeat(width)),
        (None, Some(_)) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: indent is above 64")),
        (None, None) => None,
    };
    let mut between = if indent.is_some() { "," } else { ", " }.to_owned();
    let mut after_key = ": ".to_owned();
    if separators.kind() == ValueKind::Seq {
        between = separators.get_item_by_index(0)?.to_string();
        after_key = separators.get_item_by_index(1)?.to_string();
    }
    let style = JsonStyle { indent, between, after_key, ascii, sort };
    let mut out = String::new();
    dump(&value, &style, &mut out, 0)?;
    count(out.len())?;
    Ok(out)
}

fn dump(value: &Value, style: &JsonStyle, out: &mut String, depth: usize) -> Result<(), Error> {
    bound(out, depth)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write!(out, "{value}").map_err(Error::from)?,
        ValueKind::String => json_string(value.as_str().unwrap_or(""), style, out)?,
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.collect();
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                next(index, style, out, depth + 1);
                dump(item, style, out, depth + 1)?;
            }
            close(items.is_empty(), style, out, depth);
            out.push(']');
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort {
                keys.sort();
            }
            out.push('{');
            for (index, key) in keys.iter().enumerate() {
                next(index, style, out, depth + 1);
                let name = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                json_string(&name, style, out)?;
                out.push_str(&style.after_key);
                dump(&value.get_item(key)?, style, out, depth + 1)?;
            }
            close(keys.is_empty(), style, out, depth);
            out.push('}');
        }
        kind => {
            let what = format!("tojson: a value of type {kind} has no JSON");
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
    }
    Ok(())
}

fn next(index: usize, style: &JsonStyle, out: &mut String, depth: usize) {
    if index > 0 {
        out.push_str(&style.between);
    }
    close(false, style, out, depth);
}

fn close(is_empty: bool, style: &JsonStyle, out: &mut String, depth: usize) {
    if let Some(indent) = style.indent.as_ref().filter(|_| !is_empty) {
        out.push('\n');
        out.extend(std::iter::repeat_n(indent.as_str(), depth));
    }
}

fn json_string(text: &str, style: &JsonStyle, out: &mut String) -> Result<(), Error> {
    let json = serde_json::to_string(text)
        .map_err(|error| Error::new(ErrorKind::InvalidOperation, "tojson failed").with_source(error))?;
    if !style.ascii {
        out.push_str(&json);
        return Ok(());
    }
    for character in json.chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                write!(out, "\\u{unit:04x}").map_err(Error::from)?;
            }
        }
    }
    Ok(())
}

/// String methods that pycompat lacks, then pycompat's.
fn method(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, method, args);
    };
    match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let is_right = method == "rpartition";
            let parts = if is_right { text.rsplit_once(separator) } else { text.split_once(separator) };
            Ok(strings(&match parts {
                Some((before, after)) => [before, separator, after],
                None if is_right => ["", "", text],
                None => [text, "", ""],
            }))
        }
        "rsplit" => {
            let (separator, most): (&str, Option<usize>) = from_args(args)?;
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
            }
            let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
            let mut parts: Vec<&str> = text.rsplitn(most, separator).collect();
            parts.reverse();
            Ok(strings(&parts))
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            if width > 1 << 16 {
                return Err(Error::new(ErrorKind::InvalidOperation, "zfill: too wide"));
            }
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => text.split_at(text.len() - digits.len()),
                None => ("", text),
            };
            let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
            Ok(Value::from(format!("{sign}{zeros}{digits}")))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn strings(parts: &[&str]) -> Value {
    Value::from_iter(parts.iter().map(|part| Value::from(*part)))
}
