//! Filters that make text of a value.
//!
//! Past 400 lines: one table of what a template may call.

use std::collections::VecDeque;

use super::call_arguments::CallArguments;
use super::context::RenderContext;
use super::fault::{RenderResult, fail, room, touch};
use super::lexer::is_space;
use super::text_buffer::TextBuffer;
use super::value::{TemplateValue, pairs_of};
use super::{print, strings};

fn given(value: Option<TemplateValue>) -> TemplateValue {
    value.unwrap_or(TemplateValue::None)
}

fn whole(value: Option<TemplateValue>, default: usize, what: &str) -> RenderResult<usize> {
    match value {
        None => Ok(default),
        Some(value) => match value.as_int() {
            Some(number) => Ok(usize::try_from(number.max(0)).unwrap_or(usize::MAX)),
            None => fail(format!("{what} must be an integer, not {}", value.type_name())),
        },
    }
}

/// The filter's result.
pub(super) fn call(
    context: &mut dyn RenderContext,
    name: &str,
    value: &TemplateValue,
    args: CallArguments,
) -> RenderResult<TemplateValue> {
    if name == "format" {
        if !args.positional.is_empty() && !args.named.is_empty() {
            return fail("can't handle positional and keyword arguments at the same time");
        }
        let arguments = if args.named.is_empty() {
            TemplateValue::tuple(args.positional)?
        } else {
            let mut pairs = Vec::new();
            for (name, value) in args.named {
                pairs.push((TemplateValue::text(name)?, value));
            }
            TemplateValue::dict(pairs)?
        };
        let template = print::string(context, value)?;
        return super::format::percent(context, template.as_str().unwrap_or(""), &arguments);
    }
    match name {
        "filesizeformat" => return file_size(args, value),
        "urlencode" => return url_encode(context, args, value),
        "indent" | "truncate" | "wordwrap" if value.as_str().is_none() => {
            return match value {
                TemplateValue::Undefined(missing) => fail(missing.0.clone()),
                other => fail(format!("the filter '{name}' takes text, not {}", other.type_name())),
            };
        }
        "xmlattr" => return xml_attributes(context, args, value),
        "urlize" => return fail(format!("the filter '{name}' is not there: it makes HTML")),
        _ => {}
    }
    let text = print::string(context, value)?;
    let text = text.as_str().unwrap_or("");
    touch(text.len())?;
    match name {
        "capitalize" | "lower" | "title" | "upper" => {
            let [] = args.bind(name, [])?;
            TemplateValue::text(match name {
                "capitalize" => strings::capitalized(text),
                "lower" => text.to_lowercase(),
                "upper" => text.to_uppercase(),
                _ => title(text),
            })
        }
        "center" => {
            let [width] = args.bind("center", ["width"])?;
            strings::justified(text, whole(width, 80, "width")?, " ", strings::Side::Center)
        }
        "e" | "escape" | "forceescape" => {
            let [] = args.bind(name, [])?;
            escape(text)
        }
        "indent" => indent(args, text),
        "replace" => {
            let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
            let old = print::string(context, &given(old))?;
            let new = print::string(context, &given(new))?;
            let count = count.and_then(|count| count.as_int()).filter(|count| *count >= 0);
            strings::replaced(text, old.as_str().unwrap_or(""), new.as_str().unwrap_or(""), count)
        }
        "striptags" => {
            let [] = args.bind("striptags", [])?;
            room(text.len().saturating_mul(8))?;
            TemplateValue::text(strip_tags(text))
        }
        "trim" => {
            let [characters] = args.bind("trim", ["chars"])?;
            let characters = given(characters);
            TemplateValue::text(strings::stripped(text, characters.as_str(), true, true))
        }
        "truncate" => truncate(args, text),
        "wordcount" => {
            let [] = args.bind("wordcount", [])?;
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            Ok(
                TemplateValue::Int(
                    text.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count() as i128
                ),
            )
        }
        _ => word_wrap(args, text),
    }
}

/// Jinja's own: words begin after white space and opening brackets, not after an apostrophe.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut starts = true;
    for character in text.chars() {
        if character == '-' || is_space(character) || "({[<".contains(character) {
            out.push(character);
            starts = true;
        } else if starts {
            out.extend(character.to_uppercase());
            starts = false;
        } else {
            out.extend(character.to_lowercase());
        }
    }
    out
}

fn escape(text: &str) -> RenderResult<TemplateValue> {
    let mut out = TextBuffer::default();
    for character in text.chars() {
        match character {
            '&' => out.push("&amp;")?,
            '<' => out.push("&lt;")?,
            '>' => out.push("&gt;")?,
            '\'' => out.push("&#39;")?,
            '"' => out.push("&#34;")?,
            c => out.push_char(c)?,
        }
    }
    out.into_value()
}

fn indent(args: CallArguments, text: &str) -> RenderResult<TemplateValue> {
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let indention = match width {
        Some(TemplateValue::Text(text)) => text.as_str().to_owned(),
        other => {
            let width = whole(other, 4, "width")?;
            room(width)?;
            " ".repeat(width)
        }
    };
    let (first, blank) =
        (first.is_some_and(|value| value.is_true()), blank.is_some_and(|value| value.is_true()));
    let mut out = TextBuffer::default();
    let with_end = format!("{text}\n");
    for (index, line) in strings::lines(&with_end, false)?.into_iter().enumerate() {
        if index > 0 {
            out.push("\n")?;
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            out.push(&indention)?;
        }
        out.push(line)?;
    }
    out.into_value()
}

fn truncate(args: CallArguments, text: &str) -> RenderResult<TemplateValue> {
    let [length, kill_words, end, leeway] =
        args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let length = whole(length, 255, "length")?;
    let leeway = whole(leeway.filter(|leeway| !leeway.is_none()), 5, "leeway")?;
    let end = end.map_or_else(|| TemplateValue::text("..."), Ok)?;
    let Some(end) = end.as_str() else { return fail("the end of truncate must be text") };
    let end_length = end.chars().count();
    if length < end_length {
        return fail(format!("expected length >= {end_length}, got {length}"));
    }
    if text.chars().count() <= length.saturating_add(leeway) {
        return TemplateValue::text(text);
    }
    let kept: String = text.chars().take(length - end_length).collect();
    let kept = if kill_words.is_some_and(|value| value.is_true()) {
        kept.as_str()
    } else {
        kept.rsplit_once(' ').map_or(kept.as_str(), |(before, _)| before)
    };
    TemplateValue::text(format!("{kept}{end}"))
}

fn file_size(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [binary] = args.bind("filesizeformat", ["binary"])?;
    let is_binary = binary.is_some_and(|value| value.is_true());
    let bytes = match value {
        TemplateValue::Text(text) => text.as_str().trim().parse::<f64>().ok(),
        other => other.as_float(),
    };
    let Some(bytes) = bytes else {
        return fail(format!("could not convert {} to float", value.type_name()));
    };
    let base: f64 = if is_binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return TemplateValue::text("1 Byte");
    }
    if bytes < base {
        return TemplateValue::text(format!("{} Bytes", bytes.trunc() as i128));
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let mut unit = base;
    for (index, prefix) in prefixes.iter().enumerate() {
        unit *= base;
        if bytes < unit || index + 1 == prefixes.len() {
            let ending = match (is_binary, *prefix) {
                (true, "k") => "KiB".to_owned(),
                (true, prefix) => format!("{prefix}iB"),
                (false, prefix) => format!("{prefix}B"),
            };
            return TemplateValue::text(format!("{:.1} {ending}", base * bytes / unit));
        }
    }
    fail("no size")
}

fn url_quote(text: &str, is_query: bool, out: &mut TextBuffer) -> RenderResult<()> {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => {
                out.push_char(char::from(byte))?
            }
            b'/' if !is_query => out.push("/")?,
            b' ' if is_query => out.push("+")?,
            other => out.push(&format!("%{other:02X}"))?,
        }
    }
    Ok(())
}

fn url_encode(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [] = args.bind("urlencode", [])?;
    let mut out = TextBuffer::default();
    if value.as_str().is_some() || !value.is_iterable() {
        let text = print::string(context, value)?;
        url_quote(text.as_str().unwrap_or(""), false, &mut out)?;
        return out.into_value();
    }
    let pairs = match value {
        TemplateValue::Dict(dict) => dict.entries.clone(),
        other => pairs_of(other)?,
    };
    for (index, (key, value)) in pairs.iter().enumerate() {
        out.push(if index > 0 { "&" } else { "" })?;
        url_quote(print::string(context, key)?.as_str().unwrap_or(""), true, &mut out)?;
        out.push("=")?;
        url_quote(print::string(context, value)?.as_str().unwrap_or(""), true, &mut out)?;
    }
    out.into_value()
}

fn xml_attributes(
    context: &dyn RenderContext,
    args: CallArguments,
    value: &TemplateValue,
) -> RenderResult<TemplateValue> {
    let [space] = args.bind("xmlattr", ["autospace"])?;
    let TemplateValue::Dict(dict) = value else { return fail("xmlattr takes a mapping") };
    let mut out = TextBuffer::default();
    for (key, value) in dict.entries.iter().filter(|(_, value)| !value.is_none() && !value.is_undefined()) {
        let key = print::string(context, key)?;
        if key.as_str().unwrap_or("").contains(|c: char| is_space(c) || "/>=".contains(c)) {
            return fail("Invalid character in attribute name");
        }
        if !out.as_str().is_empty() || space.as_ref().is_none_or(TemplateValue::is_true) {
            out.push(" ")?;
        }
        let value = print::string(context, value)?;
        out.push(escape(key.as_str().unwrap_or(""))?.as_str().unwrap_or(""))?;
        out.push("=\"")?;
        out.push(escape(value.as_str().unwrap_or(""))?.as_str().unwrap_or(""))?;
        out.push("\"")?;
    }
    out.into_value()
}

fn strip_tags(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("<!--") {
        let Some(end) = rest[start..].find("-->") else { break };
        plain.push_str(&rest[..start]);
        rest = &rest[start + end + 3..];
    }
    plain.push_str(rest);
    let mut out = String::with_capacity(plain.len());
    let mut rest = plain.as_str();
    while let Some(start) = rest.find('<') {
        let Some(end) = rest[start..].find('>') else { break };
        out.push_str(&rest[..start]);
        rest = &rest[start + end + 1..];
    }
    out.push_str(rest);
    let words: Vec<&str> = out.split(is_space).filter(|word| !word.is_empty()).collect();
    let text = words.join(" ");
    let named = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", "\u{a0}"),
    ];
    let text = named.iter().fold(text, |text, (from, to)| text.replace(from, to));
    text.replace("&amp;", "&")
}

fn word_wrap(args: CallArguments, text: &str) -> RenderResult<TemplateValue> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, break_long, wrap, hyphens] = args.bind("wordwrap", names)?;
    let width = whole(width, 79, "width")?;
    if width == 0 {
        return fail("invalid width 0 (must be > 0)");
    }
    // Words are taken apart into characters, and each row may have but one.
    room(text.len().saturating_mul(40))?;
    touch(text.len().saturating_mul(100))?;
    let break_long = break_long.is_none_or(|value| value.is_true());
    let on_hyphens = hyphens.is_none_or(|value| value.is_true());
    let wrap = given(wrap);
    let wrap = wrap.as_str().unwrap_or("\n");
    let mut out = TextBuffer::default();
    for (index, line) in strings::lines(text, false)?.into_iter().enumerate() {
        if index > 0 {
            out.push(wrap)?;
        }
        for (index, row) in wrapped(line, width, break_long, on_hyphens).iter().enumerate() {
            if index > 0 {
                out.push(wrap)?;
            }
            out.push(row)?;
        }
    }
    out.into_value()
}

/// Words and the white space between them; words end after a hyphen between letters as well.
fn chunks(characters: &[char], on_hyphens: bool) -> VecDeque<&[char]> {
    let splits = |place: usize| match place.checked_sub(1).map(|before| characters[before]) {
        None => false,
        Some(before) if is_space(before) != is_space(characters[place]) => true,
        Some('-') if on_hyphens => {
            let letter = |place: Option<usize>| {
                place.and_then(|place| characters.get(place)).is_some_and(|c| c.is_alphabetic())
            };
            letter(place.checked_sub(2)) && letter(Some(place))
        }
        Some(_) => false,
    };
    let (mut chunks, mut start) = (VecDeque::new(), 0);
    for place in 0..characters.len() {
        if splits(place) {
            chunks.push_back(&characters[start..place]);
            start = place;
        }
    }
    if start < characters.len() {
        chunks.push_back(&characters[start..]);
    }
    chunks
}

fn wrapped(line: &str, width: usize, break_long: bool, on_hyphens: bool) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    let characters: Vec<char> = line.chars().collect();
    let mut pending = chunks(&characters, on_hyphens);
    let is_blank = |chunk: &&[char]| chunk.iter().all(|c| is_space(*c));
    while !pending.is_empty() {
        if !rows.is_empty() && pending.front().is_some_and(is_blank) {
            pending.pop_front();
        }
        let (mut row, mut length) = (Vec::new(), 0);
        while let Some(chunk) = pending.pop_front() {
            if length + chunk.len() <= width {
                length += chunk.len();
                row.push(chunk);
                continue;
            }
            if chunk.len() > width {
                let space = width.saturating_sub(length).max(usize::from(width == 0));
                if break_long && space > 0 {
                    let (head, tail) = chunk.split_at(space);
                    row.push(head);
                    pending.push_front(tail);
                    break;
                }
                if row.is_empty() {
                    row.push(chunk);
                    break;
                }
            }
            pending.push_front(chunk);
            break;
        }
        if row.last().is_some_and(is_blank) {
            row.pop();
        }
        if !row.is_empty() {
            rows.push(row.into_iter().flatten().collect());
        }
    }
    rows
}
