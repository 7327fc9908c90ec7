//! `value.method(…)`: Python's methods of text, lists, tuples and mappings, and what loops and cyclers have.

use super::call_arguments::CallArguments;
use super::context::RenderContext;
use super::fault::{RenderResult, fail, step, touch};
use super::lexer::is_space;
use super::operators::is_equal;
use super::text_buffer::TextBuffer;
use super::value::{Dict, LoopContext, TemplateValue, ViewKind};
use super::{print, strings};

/// A value in messages: `dict object`.
pub(super) fn described(value: &TemplateValue) -> String {
    match value {
        TemplateValue::None => "None".to_owned(),
        TemplateValue::Namespace(_) => "jinja2.utils.Namespace object".to_owned(),
        TemplateValue::Loop(_) => "jinja2.runtime.LoopContext object".to_owned(),
        other => format!("{} object", other.type_name()),
    }
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

/// Calls a method that [`super::names::has_method`] knows.
pub(super) fn call(
    context: &mut dyn RenderContext,
    value: &TemplateValue,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    match value {
        TemplateValue::Text(text) => {
            touch(text.as_str().len())?;
            text_method(context, text.as_str(), name, args)
        }
        TemplateValue::List(seq) if name == "copy" => Ok(TemplateValue::List(std::rc::Rc::clone(seq))),
        TemplateValue::List(_) | TemplateValue::Tuple(_) | TemplateValue::Range(_) => {
            sequence_method(context, value, name, args)
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
        TemplateValue::Cycler(place) if name == "next" => Ok(context.cycle(*place)),
        TemplateValue::Cycler(place) => {
            context.reset(*place);
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
    context: &dyn RenderContext,
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
    let mut text = TextBuffer::default();
    print::repr(context, &item, &mut text, 0)?;
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
    context: &mut dyn RenderContext,
    text: &str,
    name: &str,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    match name {
        "format" => return super::format::braces(context, text, &args.positional, &args.named),
        "format_map" => {
            let [mapping] = args.bind(name, ["mapping"])?;
            let Some(TemplateValue::Dict(dict)) = mapping else {
                return fail("format_map() takes a mapping");
            };
            step(dict.entries.len() as u64)?;
            let named: Vec<(String, TemplateValue)> = dict
                .entries
                .iter()
                .filter_map(|(key, value)| key.as_str().map(|key| (key.to_owned(), value.clone())))
                .collect();
            return super::format::braces(context, text, &[], &named);
        }
        "split" | "rsplit" => {
            let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
            let separator = optional_text(separator.as_ref(), name)?;
            let most = number_of(most.as_ref(), -1, name)?;
            return texts(strings::split(text, separator, usize::try_from(most).ok(), name == "rsplit")?);
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            return texts(strings::lines(text, keep.is_some_and(|keep| keep.is_true()))?);
        }
        "expandtabs" => {
            let [size] = args.bind(name, ["tabsize"])?;
            return strings::expand_tabs(text, number_of(size.as_ref(), 8, name)?);
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
        "capitalize" => TemplateValue::text(strings::capitalized(text)),
        "casefold" => TemplateValue::text(text.to_lowercase().replace('ß', "ss").replace('ς', "σ")),
        "lower" => TemplateValue::text(text.to_lowercase()),
        "upper" => TemplateValue::text(text.to_uppercase()),
        "title" => TemplateValue::text(strings::titled(text)),
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
                "center" => strings::Side::Center,
                "ljust" => strings::Side::Left,
                _ => strings::Side::Right,
            };
            strings::justified(text, width, fill, side)
        }
        "zfill" => {
            let width = usize::try_from(number_of(one, 0, name)?.max(0)).unwrap_or(usize::MAX);
            let sign = usize::from(text.starts_with(['-', '+']));
            let mut out = TextBuffer::default();
            out.push(&text[..sign])?;
            out.repeat("0", width.saturating_sub(text.chars().count()))?;
            out.push(&text[sign..])?;
            out.into_value()
        }
        "strip" => TemplateValue::text(strings::stripped(text, optional_text(one, name)?, true, true)),
        "lstrip" => TemplateValue::text(strings::stripped(text, optional_text(one, name)?, true, false)),
        "rstrip" => TemplateValue::text(strings::stripped(text, optional_text(one, name)?, false, true)),
        "removeprefix" => TemplateValue::text(text.strip_prefix(text_of(one, name)?).unwrap_or(text)),
        "removesuffix" => TemplateValue::text(text.strip_suffix(text_of(one, name)?).unwrap_or(text)),
        "replace" => {
            let count = Some(number_of(three, -1, name)?).filter(|count| *count >= 0);
            strings::replaced(text, text_of(one, name)?, text_of(two, name)?, count)
        }
        "join" => {
            let Some(items) = one else { return fail("join() takes exactly one argument (0 given)") };
            let mut out = TextBuffer::default();
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
        "isdecimal" => all(strings::is_decimal),
        "isdigit" => all(|c| strings::is_decimal(c) || strings::is_other_digit(c)),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(is_space),
        "isprintable" => truth(text.chars().all(print::is_printable)),
        "isidentifier" => {
            let starts = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
            truth(starts && text.chars().all(|c| c.is_alphanumeric() || c == '_'))
        }
        "islower" => truth(strings::has_case(text, false)),
        "isupper" => truth(strings::has_case(text, true)),
        "istitle" => truth(strings::is_title(text)),
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
