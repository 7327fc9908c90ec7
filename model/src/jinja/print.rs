//! `str(value)`, `repr(value)` and `json.dumps(value)`, as Python writes them.

use std::fmt::Write;

use super::context::RenderContext;
use super::fault::{RenderResult, fail, touch};
use super::text_buffer::TextBuffer;
use super::value::{TemplateValue, quoted_type};

/// Values in one another that are written: a namespace may hold itself.
const MOST_DEPTH: usize = 200;

/// What a value costs besides its text.
const VALUE_WORK: usize = 32;

/// `str(value)` at the end of `out`.
pub(super) fn print(
    context: &dyn RenderContext,
    value: &TemplateValue,
    out: &mut TextBuffer,
) -> RenderResult<()> {
    match value {
        TemplateValue::Undefined(_) => Ok(()),
        TemplateValue::Text(text) => out.push(text.as_str()),
        other => repr(context, other, out, 0),
    }
}

/// `str(value)`.
pub(super) fn string(context: &dyn RenderContext, value: &TemplateValue) -> RenderResult<TemplateValue> {
    if let TemplateValue::Text(_) = value {
        return Ok(value.clone());
    }
    let mut out = TextBuffer::default();
    print(context, value, &mut out)?;
    out.into_value()
}

/// `repr(value)` at the end of `out`.
pub(super) fn repr(
    context: &dyn RenderContext,
    value: &TemplateValue,
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    if depth > MOST_DEPTH {
        return fail("a value is nested too deeply to be printed");
    }
    touch(VALUE_WORK)?;
    let inner = depth + 1;
    match value {
        TemplateValue::Undefined(_) => out.push("Undefined"),
        TemplateValue::None => out.push("None"),
        TemplateValue::Bool(truth) => out.push(if *truth { "True" } else { "False" }),
        TemplateValue::Int(number) => out.push(&number.to_string()),
        TemplateValue::Float(number) => out.push(&float(*number)),
        TemplateValue::Text(text) => quoted(text.as_str(), out),
        TemplateValue::List(seq) => {
            out.push("[")?;
            several(context, &seq.items, out, inner)?;
            out.push("]")
        }
        TemplateValue::Tuple(seq) => {
            out.push("(")?;
            several(context, &seq.items, out, inner)?;
            out.push(if seq.items.len() == 1 { ",)" } else { ")" })
        }
        TemplateValue::Dict(dict) => pairs(context, &dict.entries, out, inner),
        TemplateValue::View(..) => {
            out.push(value.type_name())?;
            out.push("([")?;
            several(context, &value.items()?.items, out, inner)?;
            out.push("])")
        }
        TemplateValue::Range(range) => {
            let step = if range.step == 1 { String::new() } else { format!(", {}", range.step) };
            out.push(&format!("range({}, {}{step})", range.start, range.stop))
        }
        TemplateValue::Namespace(place) => {
            out.push("<Namespace ")?;
            pairs(context, context.namespace(*place), out, inner)?;
            out.push(">")
        }
        TemplateValue::Macro(place) => {
            out.push("<Macro ")?;
            quoted(context.macro_name(*place), out)?;
            out.push(">")
        }
        TemplateValue::Loop(state) => {
            out.push(&format!("<LoopContext {}/{}>", state.index.get() + 1, state.items.items.len()))
        }
        // Python prints an address, which is another in every run.
        other => out.push(&format!("<{} object>", other.type_name())),
    }
}

fn several(
    context: &dyn RenderContext,
    items: &[TemplateValue],
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    for (index, item) in items.iter().enumerate() {
        out.push(if index > 0 { ", " } else { "" })?;
        repr(context, item, out, depth)?;
    }
    Ok(())
}

fn pairs(
    context: &dyn RenderContext,
    entries: &[(TemplateValue, TemplateValue)],
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    out.push("{")?;
    for (index, (key, value)) in entries.iter().enumerate() {
        out.push(if index > 0 { ", " } else { "" })?;
        repr(context, key, out, depth)?;
        out.push(": ")?;
        repr(context, value, out, depth)?;
    }
    out.push("}")
}

/// A string as Python's repr quotes it.
fn quoted(text: &str, out: &mut TextBuffer) -> RenderResult<()> {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push_char(quote)?;
    for character in text.chars() {
        match character {
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\\' => out.push("\\\\")?,
            c if c == quote => {
                out.push("\\")?;
                out.push_char(c)?;
            }
            c if is_printable(c) => out.push_char(c)?,
            c if (c as u32) < 0x100 => out.push(&format!("\\x{:02x}", c as u32))?,
            c if (c as u32) < 0x10000 => out.push(&format!("\\u{:04x}", c as u32))?,
            c => out.push(&format!("\\U{:08x}", c as u32))?,
        }
    }
    out.push_char(quote)
}

/// `str.isprintable()` of one character, as far as the standard library knows: controls, separators other than the
/// space, formatting characters, surrogates, private use and what is not a character are not.
pub(super) fn is_printable(character: char) -> bool {
    let code = character as u32;
    let is_format = matches!(code, 0xAD | 0x600..=0x605 | 0x61C | 0x6DD | 0x70F | 0x180E | 0x200B..=0x200F
        | 0x202A..=0x202E | 0x2060..=0x206F | 0xFEFF | 0xFFF9..=0xFFFB | 0xE0001 | 0xE0020..=0xE007F);
    let is_private = matches!(code, 0xE000..=0xF8FF | 0xF0000..=0x10FFFF);
    let is_none = code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code);
    character == ' '
        || !(character.is_control() || character.is_whitespace() || is_format || is_private || is_none)
}

/// A float as Python's repr writes it: the shortest digits that read back as the same number.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{number}");
        if plain.contains('.') { plain } else { format!("{plain}.0") }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{digits}e{sign}{:02}", exponent.abs())
    }
}

/// How `json.dumps` lays a value out.
pub(super) struct JsonStyle {
    pub(super) indent: Option<String>,
    pub(super) between: String,
    pub(super) after_key: String,
    pub(super) is_ascii: bool,
    pub(super) is_sorted: bool,
}

/// `json.dumps(value)` at the end of `out`.
pub(super) fn json(
    value: &TemplateValue,
    style: &JsonStyle,
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    if depth > MOST_DEPTH {
        return fail("a value is nested too deeply for tojson");
    }
    touch(VALUE_WORK)?;
    match value {
        TemplateValue::None => out.push("null"),
        TemplateValue::Bool(truth) => out.push(if *truth { "true" } else { "false" }),
        TemplateValue::Int(number) => out.push(&number.to_string()),
        TemplateValue::Float(number) => out.push(&json_float(*number)),
        TemplateValue::Text(text) => json_string(text.as_str(), style, out),
        TemplateValue::List(seq) | TemplateValue::Tuple(seq) => {
            out.push("[")?;
            for (index, item) in seq.items.iter().enumerate() {
                separate(index, style, out, depth + 1)?;
                json(item, style, out, depth + 1)?;
            }
            if !seq.items.is_empty() {
                line(style, out, depth)?;
            }
            out.push("]")
        }
        TemplateValue::Dict(dict) => {
            let mut entries: Vec<&(TemplateValue, TemplateValue)> = dict.entries.iter().collect();
            if style.is_sorted {
                entries = super::operators::sorted(entries, |(one, _), (other, _)| {
                    super::operators::is_less(one, other)
                })?;
            }
            out.push("{")?;
            for (index, (key, item)) in entries.iter().enumerate() {
                separate(index, style, out, depth + 1)?;
                match key {
                    TemplateValue::Text(text) => json_string(text.as_str(), style, out)?,
                    TemplateValue::None
                    | TemplateValue::Bool(_)
                    | TemplateValue::Int(_)
                    | TemplateValue::Float(_) => {
                        out.push("\"")?;
                        json(key, style, out, depth + 1)?;
                        out.push("\"")?;
                    }
                    other => {
                        let found = other.type_name();
                        return fail(format!(
                            "keys must be str, int, float, bool or None, not {found} (tojson)"
                        ));
                    }
                }
                out.push(&style.after_key)?;
                json(item, style, out, depth + 1)?;
            }
            if !entries.is_empty() {
                line(style, out, depth)?;
            }
            out.push("}")
        }
        other => {
            fail(format!("Object of type {} is not JSON serializable", quoted_type(other).trim_matches('\'')))
        }
    }
}

fn json_float(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        float(number)
    }
}

fn separate(index: usize, style: &JsonStyle, out: &mut TextBuffer, depth: usize) -> RenderResult<()> {
    if index > 0 {
        out.push(&style.between)?;
    }
    line(style, out, depth)
}

fn line(style: &JsonStyle, out: &mut TextBuffer, depth: usize) -> RenderResult<()> {
    match &style.indent {
        None => Ok(()),
        Some(indent) => {
            out.push("\n")?;
            out.repeat(indent, depth)
        }
    }
}

fn json_string(text: &str, style: &JsonStyle, out: &mut TextBuffer) -> RenderResult<()> {
    out.push("\"")?;
    for character in text.chars() {
        match character {
            '"' => out.push("\\\"")?,
            '\\' => out.push("\\\\")?,
            '\n' => out.push("\\n")?,
            '\r' => out.push("\\r")?,
            '\t' => out.push("\\t")?,
            '\x08' => out.push("\\b")?,
            '\x0c' => out.push("\\f")?,
            c if (c as u32) < 0x20 => out.push(&format!("\\u{:04x}", c as u32))?,
            c if c.is_ascii() && !(style.is_ascii && c == '\x7f') => out.push_char(c)?,
            c if style.is_ascii && c != '\x7f' => {
                let mut escaped = String::new();
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\u{unit:04x}");
                }
                out.push(&escaped)?;
            }
            c => out.push_char(c)?,
        }
    }
    out.push("\"")
}
