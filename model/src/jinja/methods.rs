//! `value.method(…)`: Python's methods of text, lists, tuples and mappings, and what loops and cyclers have.
//!
//! Past 400 lines: one table of what a template may call.

use super::fault::{RenderResult, fail, room, step, touch};
use super::interpreter::{CallArguments, Interpreter};
use super::lexer::is_space;
use super::operators::is_equal;
use super::print;
use super::value::{Buffer, Dict, LoopContext, TemplateValue, ViewKind};

const TEXT: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const MAPPING: [&str; 5] = ["copy", "get", "items", "keys", "values"];
/// What changes a value; the sandbox refuses it.
const UNSAFE: [&str; 13] = [
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "popitem",
    "remove",
    "reverse",
    "setdefault",
    "sort",
    "update",
    "add",
    "discard",
];

/// What a part of a text takes before it is a value.
const PART_BYTES: usize = 16;

/// A value in messages: `dict object`.
pub(super) fn described(value: &TemplateValue) -> String {
    match value {
        TemplateValue::None => "None".to_owned(),
        TemplateValue::Namespace(_) => "jinja2.utils.Namespace object".to_owned(),
        TemplateValue::Loop(_) => "jinja2.runtime.LoopContext object".to_owned(),
        other => format!("{} object", other.type_name()),
    }
}

/// Whether the value has a method of this name.
pub(super) fn has(value: &TemplateValue, name: &str) -> bool {
    match value {
        TemplateValue::Text(_) => TEXT.contains(&name),
        TemplateValue::List(_) => ["count", "index", "copy"].contains(&name),
        TemplateValue::Tuple(_) | TemplateValue::Range(_) => ["count", "index"].contains(&name),
        TemplateValue::Dict(_) => MAPPING.contains(&name),
        TemplateValue::Loop(_) => ["cycle", "changed"].contains(&name),
        TemplateValue::Cycler(_) => ["next", "reset"].contains(&name),
        TemplateValue::Float(_) => ["is_integer", "hex"].contains(&name),
        TemplateValue::Int(_) | TemplateValue::Bool(_) => name == "bit_length",
        _ => false,
    }
}

/// Whether the sandbox keeps the attribute away from templates.
pub(super) fn is_unsafe(value: &TemplateValue, name: &str) -> bool {
    let is_dunder =
        name.starts_with("__") && ["__class__", "__dict__", "__doc__", "__init__", "__len__"].contains(&name);
    let changes = match value {
        TemplateValue::List(_) => !["popitem", "setdefault", "update", "add", "discard"].contains(&name),
        TemplateValue::Dict(_) => ["clear", "pop", "popitem", "setdefault", "update"].contains(&name),
        _ => false,
    };
    is_dunder || (changes && UNSAFE.contains(&name))
}

/// An attribute of `loop`; `None` for a name that is none.
pub(super) fn loop_attribute(state: &LoopContext, name: &str) -> RenderResult<Option<TemplateValue>> {
    let (index, length) = (state.index.get(), state.items.items.len());
    let number = |number: usize| Some(TemplateValue::Int(number as i128));
    let neighbour = |place: Option<usize>, what: &str| {
        let found = place.and_then(|place| state.items.items.get(place)).cloned();
        Some(found.unwrap_or_else(|| TemplateValue::undefined(format!("there is no {what} item"))))
    };
    Ok(match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length.saturating_sub(index)),
        "revindex0" => number(length.saturating_sub(index + 1)),
        "first" => Some(TemplateValue::Bool(index == 0)),
        "last" => Some(TemplateValue::Bool(index + 1 == length)),
        "length" => number(length),
        "depth" => number(state.depth0 + 1),
        "depth0" => number(state.depth0),
        "previtem" => neighbour(index.checked_sub(1), "previous"),
        "nextitem" => neighbour(Some(index + 1), "next"),
        _ => None,
    })
}

/// Calls a method that [`has`] knows.
pub(super) fn call(
    machine: &mut Interpreter<'_>,
    value: &TemplateValue,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    match value {
        TemplateValue::Text(text) => {
            touch(text.as_str().len())?;
            text_method(machine, text.as_str(), name, args)
        }
        TemplateValue::List(seq) if name == "copy" => Ok(TemplateValue::List(std::rc::Rc::clone(seq))),
        TemplateValue::List(_) | TemplateValue::Tuple(_) | TemplateValue::Range(_) => {
            sequence_method(machine, value, name, args)
        }
        TemplateValue::Dict(dict) => mapping_method(dict, value, name, args),
        TemplateValue::Loop(state) if name == "changed" => {
            let now = TemplateValue::tuple(args.positional)?;
            let before = state.changed.replace(Some(now.clone()));
            Ok(TemplateValue::Bool(match before {
                Some(before) => !is_equal(&before, &now)?,
                None => true,
            }))
        }
        TemplateValue::Loop(state) => match args.positional.len() {
            0 => fail("no items for cycling given"),
            count => Ok(args.positional[state.index.get() % count].clone()),
        },
        TemplateValue::Cycler(place) if name == "next" => Ok(machine.cycle(*place)),
        TemplateValue::Cycler(place) => {
            machine.reset(*place);
            Ok(TemplateValue::None)
        }
        TemplateValue::Float(number) if name == "is_integer" => {
            Ok(TemplateValue::Bool(number.fract() == 0.0))
        }
        TemplateValue::Int(_) | TemplateValue::Bool(_) => {
            let number = value.as_int().unwrap_or(0).unsigned_abs();
            Ok(TemplateValue::Int(i128::from(u128::BITS - number.leading_zeros())))
        }
        other => fail(format!("'{}' has no method '{name}'", described(other))),
    }
}

fn mapping_method(
    dict: &std::rc::Rc<Dict>,
    value: &TemplateValue,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    let view = |kind| Ok(TemplateValue::View(kind, std::rc::Rc::clone(dict)));
    match name {
        "get" => {
            let [key, default] = args.bind("get", ["key", "default"])?;
            let Some(key) = key else { return fail("get expected at least 1 argument, got 0") };
            Ok(dict.get(&key.key()?).cloned().or(default).unwrap_or(TemplateValue::None))
        }
        "items" => view(ViewKind::Items),
        "keys" => view(ViewKind::Keys),
        "values" => view(ViewKind::Values),
        _ => Ok(value.clone()),
    }
}

fn sequence_method(
    machine: &Interpreter<'_>,
    value: &TemplateValue,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    let [item, start, stop] = args.bind(name, ["value", "start", "stop"])?;
    let Some(item) = item else { return fail(format!("{name}() expected 1 argument, got 0")) };
    let items = value.items()?;
    let items = &items.items;
    let bound = |bound: Option<TemplateValue>, default: usize| match bound.and_then(|bound| bound.as_int()) {
        None => default,
        Some(bound) if bound < 0 => usize::try_from(bound + items.len() as i128).unwrap_or(0),
        Some(bound) => usize::try_from(bound).unwrap_or(usize::MAX).min(items.len()),
    };
    let (start, stop) = (bound(start, 0), bound(stop, items.len()));
    let mut count = 0;
    for (place, found) in items.iter().enumerate().take(stop).skip(start) {
        if is_equal(found, &item)? {
            if name == "index" {
                return Ok(TemplateValue::Int(place as i128));
            }
            count += 1;
        }
    }
    if name == "count" {
        return Ok(TemplateValue::Int(count));
    }
    let mut text = Buffer::default();
    print::repr(machine, &item, &mut text, 0)?;
    fail(format!("ValueError: {} is not in {}", text.as_str(), value.type_name()))
}

/// Text of an argument.
fn text_of<'a>(value: Option<&'a TemplateValue>, what: &str) -> RenderResult<&'a str> {
    match value {
        Some(TemplateValue::Text(text)) => Ok(text.as_str()),
        Some(TemplateValue::Undefined(missing)) => fail(missing.0.clone()),
        Some(other) => fail(format!("{what}() argument must be str, not {}", other.type_name())),
        None => fail(format!("{what}() expected one more argument")),
    }
}

fn optional_text<'a>(value: Option<&'a TemplateValue>, what: &str) -> RenderResult<Option<&'a str>> {
    match value {
        None | Some(TemplateValue::None) => Ok(None),
        some => text_of(some, what).map(Some),
    }
}

fn number_of(value: Option<&TemplateValue>, default: i128, what: &str) -> RenderResult<i128> {
    match value {
        None => Ok(default),
        Some(TemplateValue::Undefined(missing)) => fail(missing.0.clone()),
        Some(other) => match other.as_int() {
            Some(number) => Ok(number),
            None => {
                fail(format!("{what}(): '{}' object cannot be interpreted as an integer", other.type_name()))
            }
        },
    }
}

fn text_method(
    machine: &mut Interpreter<'_>,
    text: &str,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    match name {
        "format" => return super::format::braces(machine, text, &args.positional, &args.named),
        "format_map" => {
            let [mapping] = args.bind(name, ["mapping"])?;
            let Some(TemplateValue::Dict(dict)) = mapping else {
                return fail("format_map() takes a mapping");
            };
            let named: Vec<(String, TemplateValue)> = dict
                .entries
                .iter()
                .filter_map(|(key, value)| key.as_str().map(|key| (key.to_owned(), value.clone())))
                .collect();
            return super::format::braces(machine, text, &[], &named);
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let separator = optional_text(separator.as_ref(), name)?;
            let most = number_of(most.as_ref(), -1, name)?;
            return texts(split(text, separator, usize::try_from(most).ok(), name == "rsplit")?);
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            return texts(lines(text, keep.is_some_and(|keep| keep.is_true()))?);
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            return expand_tabs(text, number_of(size.as_ref(), 8, name)?);
        }
        _ => {}
    }
    if !args.named.is_empty() {
        return fail(format!("str.{name}() takes no keyword arguments"));
    }
    let takes_none = name.starts_with("is")
        || ["capitalize", "casefold", "lower", "upper", "title", "swapcase"].contains(&name);
    if takes_none && !args.positional.is_empty() {
        return fail(format!("str.{name}() takes no arguments ({} given)", args.positional.len()));
    }
    let [one, two, three] = args.bind(name, ["", "", ""])?;
    let (one, two, three) = (one.as_ref(), two.as_ref(), three.as_ref());
    let truth = |truth: bool| Ok(TemplateValue::Bool(truth));
    let all = |test: fn(char) -> bool| Ok(TemplateValue::Bool(!text.is_empty() && text.chars().all(test)));
    match name {
        "capitalize" => TemplateValue::text(capitalized(text)),
        "casefold" => TemplateValue::text(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "lower" => TemplateValue::text(text.to_lowercase()),
        "upper" => TemplateValue::text(text.to_uppercase()),
        "title" => TemplateValue::text(titled(text)),
        "swapcase" => {
            let mut out = String::with_capacity(text.len());
            for character in text.chars() {
                if character.is_uppercase() {
                    out.extend(character.to_lowercase());
                } else {
                    out.extend(character.to_uppercase());
                }
            }
            TemplateValue::text(out)
        }
        "center" | "ljust" | "rjust" => {
            let width = usize::try_from(number_of(one, 0, name)?.max(0)).unwrap_or(usize::MAX);
            let fill = if two.is_some() { text_of(two, name)? } else { " " };
            if fill.chars().count() != 1 {
                return fail("The fill character must be exactly one character long");
            }
            let side = match name {
                "center" => Side::Center,
                "ljust" => Side::Left,
                _ => Side::Right,
            };
            justified(text, width, fill, side)
        }
        "zfill" => {
            let width = usize::try_from(number_of(one, 0, name)?.max(0)).unwrap_or(usize::MAX);
            let sign = usize::from(text.starts_with(['-', '+']));
            let mut out = Buffer::default();
            out.push(&text[..sign])?;
            out.repeat("0", width.saturating_sub(text.chars().count()))?;
            out.push(&text[sign..])?;
            out.into_value()
        }
        "strip" => TemplateValue::text(stripped(text, optional_text(one, name)?, true, true)),
        "lstrip" => TemplateValue::text(stripped(text, optional_text(one, name)?, true, false)),
        "rstrip" => TemplateValue::text(stripped(text, optional_text(one, name)?, false, true)),
        "removeprefix" => TemplateValue::text(text.strip_prefix(text_of(one, name)?).unwrap_or(text)),
        "removesuffix" => TemplateValue::text(text.strip_suffix(text_of(one, name)?).unwrap_or(text)),
        "replace" => {
            let count = Some(number_of(three, -1, name)?).filter(|count| *count >= 0);
            replaced(text, text_of(one, name)?, text_of(two, name)?, count)
        }
        "join" => {
            let Some(items) = one else { return fail("join() takes exactly one argument (0 given)") };
            let mut out = Buffer::default();
            for (index, item) in items.items()?.items.iter().enumerate() {
                step(1)?;
                if index > 0 {
                    out.push(text)?;
                }
                match item.as_str() {
                    Some(item) => out.push(item)?,
                    None => {
                        return fail(format!(
                            "sequence item {index}: expected str instance, {} found",
                            item.type_name()
                        ));
                    }
                }
            }
            out.into_value()
        }
        "partition" | "rpartition" => {
            let separator = text_of(one, name)?;
            if separator.is_empty() {
                return fail("ValueError: empty separator");
            }
            let is_right = name == "rpartition";
            let parts = if is_right { text.rsplit_once(separator) } else { text.split_once(separator) };
            let parts = match parts {
                Some((before, after)) => [before, separator, after],
                None if is_right => ["", "", text],
                None => [text, "", ""],
            };
            TemplateValue::tuple(parts.into_iter().map(TemplateValue::text).collect::<RenderResult<_>>()?)
        }
        "startswith" | "endswith" => {
            let Some(part) = window(text, two, three, name)? else { return truth(false) };
            let part = &text[part];
            let fits = |affix: &str| {
                if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) }
            };
            match one {
                Some(TemplateValue::Tuple(seq)) => {
                    for affix in &seq.items {
                        step(1)?;
                        if fits(text_of(Some(affix), name)?) {
                            return truth(true);
                        }
                    }
                    truth(false)
                }
                Some(TemplateValue::Text(affix)) => truth(fits(affix.as_str())),
                Some(TemplateValue::Undefined(missing)) => fail(missing.0.clone()),
                other => fail(format!(
                    "{name} first arg must be str or a tuple of str, not {}",
                    other.map_or("nothing", TemplateValue::type_name)
                )),
            }
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            let part = text_of(one, name)?;
            let range = window(text, two, three, name)?;
            if name == "count" {
                let Some(range) = range else { return Ok(TemplateValue::Int(0)) };
                let inner = &text[range];
                let count =
                    if part.is_empty() { inner.chars().count() + 1 } else { inner.matches(part).count() };
                return Ok(TemplateValue::Int(count as i128));
            }
            let found = range.and_then(|range| {
                let inner = &text[range.clone()];
                let place = if name.starts_with('r') { inner.rfind(part) } else { inner.find(part) };
                place.map(|place| text[..range.start + place].chars().count())
            });
            match found {
                Some(place) => Ok(TemplateValue::Int(place as i128)),
                None if name.ends_with("index") => fail("ValueError: substring not found"),
                None => Ok(TemplateValue::Int(-1)),
            }
        }
        "isascii" => truth(text.is_ascii()),
        "isalnum" => all(|c| c.is_alphabetic() || c.is_numeric()),
        "isalpha" => all(char::is_alphabetic),
        "isdecimal" => all(is_decimal),
        "isdigit" => all(|c| is_decimal(c) || is_other_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isprintable" => truth(text.chars().all(print::is_printable)),
        "isidentifier" => {
            let starts = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            truth(starts && text.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "islower" => truth(has_case(text, false)),
        "isupper" => truth(has_case(text, true)),
        "istitle" => truth(is_title(text)),
        _ => fail(format!("'str object' has no attribute '{name}'")),
    }
}

fn texts(parts: Vec<&str>) -> RenderResult<TemplateValue> {
    TemplateValue::list(parts.into_iter().map(TemplateValue::text).collect::<RenderResult<_>>()?)
}

/// The bytes of `text[start:stop]`; `None` where the window lies outside.
fn window(
    text: &str,
    start: Option<&TemplateValue>,
    stop: Option<&TemplateValue>,
    what: &str,
) -> RenderResult<Option<std::ops::Range<usize>>> {
    if start.is_none() && stop.is_none() {
        return Ok(Some(0..text.len()));
    }
    let length = text.chars().count() as i128;
    let bound = |value: Option<&TemplateValue>, default: i128| -> RenderResult<i128> {
        let value = value.filter(|value| !value.is_none());
        let number = number_of(value, default, what)?;
        Ok(if number < 0 { (number + length).max(0) } else { number })
    };
    let (start, stop) = (bound(start, 0)?, bound(stop, length)?.min(length));
    if start > length || start > stop {
        return Ok(None);
    }
    let byte = |place: i128| text.char_indices().nth(place as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some(byte(start)..byte(stop)))
}

/// First letter large, the others small.
pub(super) fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let Some(first) = characters.next() else { return String::new() };
    let mut out: String = title_case(first);
    out.push_str(&characters.as_str().to_lowercase());
    out
}

/// A letter at the beginning of a word: `ß` becomes `Ss`.
fn title_case(character: char) -> String {
    // The four letters that have a form for titles.
    let of_title = match character {
        'Ǆ' | 'ǆ' => Some('ǅ'),
        'Ǉ' | 'ǉ' => Some('ǈ'),
        'Ǌ' | 'ǌ' => Some('ǋ'),
        'Ǳ' | 'ǳ' => Some('ǲ'),
        _ => None,
    };
    if let Some(letter) = of_title {
        return letter.to_string();
    }
    let mut upper = character.to_uppercase();
    let mut out: String = upper.next().into_iter().collect();
    for more in upper {
        out.extend(more.to_lowercase());
    }
    out
}

/// `str.title()`: every letter after something that is no letter is large.
fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_letter = false;
    for character in text.chars() {
        if after_letter {
            out.extend(character.to_lowercase());
        } else {
            out.push_str(&title_case(character));
        }
        after_letter = character.is_lowercase() || character.is_uppercase();
    }
    out
}

/// Whether there are cased letters, all of them large (or all small).
pub(super) fn has_case(text: &str, is_upper: bool) -> bool {
    let wrong = if is_upper { char::is_lowercase } else { char::is_uppercase };
    let right = if is_upper { char::is_uppercase } else { char::is_lowercase };
    !text.chars().any(wrong) && text.chars().any(right)
}

fn is_title(text: &str) -> bool {
    let (mut after_letter, mut has_letter) = (false, false);
    for character in text.chars() {
        let is_cased = character.is_lowercase() || character.is_uppercase();
        if (character.is_uppercase() && after_letter) || (character.is_lowercase() && !after_letter) {
            return false;
        }
        after_letter = is_cased;
        has_letter |= is_cased;
    }
    has_letter
}

/// The digit that a character of a decimal script is: each script has its zero and nine more.
pub(super) fn decimal_digit(character: char) -> Option<u32> {
    const ZEROS: [u32; 41] = [
        0x30, 0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xDE6,
        0xE50, 0xED0, 0xF20, 0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0,
        0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0, 0xAA50, 0xABF0, 0xFF10, 0x104A0, 0x11066,
        0x1D7CE, 0x1D7D8,
    ];
    let code = character as u32;
    if (0x1D7CE..=0x1D7FF).contains(&code) {
        return Some((code - 0x1D7CE) % 10);
    }
    ZEROS.iter().find(|zero| (**zero..**zero + 10).contains(&code)).map(|zero| code - zero)
}

fn is_decimal(character: char) -> bool {
    decimal_digit(character).is_some()
}

/// Digits that are not of a decimal script: raised, lowered, circled.
fn is_other_digit(character: char) -> bool {
    matches!(character as u32, 0xB2 | 0xB3 | 0xB9 | 0x2070 | 0x2074..=0x2079 | 0x2080..=0x2089 | 0x2460..=0x2468
        | 0x2474..=0x247C | 0x2488..=0x2490 | 0x24EA | 0x24F5..=0x24FD | 0x24FF | 0x2776..=0x277E | 0x2780..=0x2788
        | 0x278A..=0x2792 | 0x1369..=0x1371)
}

/// Where a text stands in its width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
    Center,
}

/// `text` filled up to `width` characters.
pub(super) fn justified(text: &str, width: usize, fill: &str, side: Side) -> RenderResult<TemplateValue> {
    let missing = width.saturating_sub(text.chars().count());
    let left = match side {
        Side::Left => 0,
        Side::Right => missing,
        // As Python: the odd one goes to the left where the width is odd.
        Side::Center => missing / 2 + (missing & width & 1),
    };
    let mut out = Buffer::default();
    out.repeat(fill, left)?;
    out.push(text)?;
    out.repeat(fill, missing - left)?;
    out.into_value()
}

/// `text` without white space, or without `characters`, at its ends.
pub(super) fn stripped<'t>(text: &'t str, characters: Option<&str>, at_start: bool, at_end: bool) -> &'t str {
    let goes = |c: char| characters.map_or_else(|| is_space(c), |set| set.contains(c));
    let text = if at_start { text.trim_start_matches(goes) } else { text };
    if at_end { text.trim_end_matches(goes) } else { text }
}

/// `text.replace(old, new, count)`.
pub(super) fn replaced(text: &str, old: &str, new: &str, count: Option<i128>) -> RenderResult<TemplateValue> {
    let mut left = count.unwrap_or(i128::MAX);
    let mut out = Buffer::default();
    if old.is_empty() {
        for character in text.chars() {
            if left > 0 {
                out.push(new)?;
                left -= 1;
            }
            out.push_char(character)?;
        }
        if left > 0 {
            out.push(new)?;
        }
        return out.into_value();
    }
    let mut rest = text;
    while left > 0
        && let Some(place) = rest.find(old)
    {
        out.push(&rest[..place])?;
        out.push(new)?;
        rest = &rest[place + old.len()..];
        left -= 1;
    }
    out.push(rest)?;
    out.into_value()
}

fn split<'t>(
    text: &'t str,
    separator: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> RenderResult<Vec<&'t str>> {
    let most = most.unwrap_or(usize::MAX - 1);
    if let Some(separator) = separator {
        if separator.is_empty() {
            return fail("ValueError: empty separator");
        }
        room(text.matches(separator).count() * PART_BYTES)?;
        if from_right {
            let mut parts: Vec<&str> = text.rsplitn(most + 1, separator).collect();
            parts.reverse();
            return Ok(parts);
        }
        return Ok(text.splitn(most + 1, separator).collect());
    }
    room(text.chars().filter(|c| is_space(*c)).count() * PART_BYTES / 2)?;
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if parts.len() == most {
            // What is left keeps the white space inside it, not that at its far end.
            parts.push(rest);
            break;
        }
        if from_right {
            let start =
                rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
            parts.push(&rest[start..]);
            rest = &rest[..start];
        } else {
            let end = rest.find(is_space).unwrap_or(rest.len());
            parts.push(&rest[..end]);
            rest = &rest[end..];
        }
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// `text.splitlines(keepends)`.
pub(super) fn lines(text: &str, keep_ends: bool) -> RenderResult<Vec<&str>> {
    let mut lines = Vec::new();
    let mut rest = text;
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\x0b' | '\x0c' | '\x1c' | '\x1d' | '\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    room(text.chars().filter(|c| is_end(*c)).count() * PART_BYTES)?;
    while !rest.is_empty() {
        let Some(place) = rest.find(is_end) else {
            lines.push(rest);
            break;
        };
        let length = if rest[place..].starts_with("\r\n") {
            2
        } else {
            rest[place..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { place + length } else { place }]);
        rest = &rest[place + length..];
    }
    Ok(lines)
}

fn expand_tabs(text: &str, size: i128) -> RenderResult<TemplateValue> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = Buffer::default();
    let mut column = 0;
    for character in text.chars() {
        match character {
            '\t' if size > 0 => {
                let width = size - column % size;
                out.repeat(" ", width)?;
                column += width;
            }
            '\t' => {}
            other => {
                out.push_char(other)?;
                column = if matches!(other, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    out.into_value()
}
