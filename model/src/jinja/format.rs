//! Python's two ways to put values into a text: `'%s' % value` and `'{}'.format(value)`, numbers included.
//!
//! Past 400 lines: both ways share how a number is padded, signed and rounded.

use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail, room};
use super::print;
use super::value::{TemplateValue, TextBuffer};

/// Digits after the point beyond which a double has zeros only.
const MOST_DIGITS: usize = 1100;

/// How one value is laid out.
#[derive(Clone, Debug, Default)]
struct FormatSpec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+`, `-` or a space.
    sign: Option<char>,
    is_alternate: bool,
    is_zero_padded: bool,
    width: usize,
    /// `,` or `_` between thousands.
    grouping: Option<char>,
    precision: Option<usize>,
    /// The letter of the presentation; none: as `str` writes it.
    kind: Option<char>,
}

fn number_of(text: &str) -> RenderResult<usize> {
    let number: usize =
        text.parse().map_err(|_| TemplateFault::failed("a width or precision is too large"))?;
    room(number)?;
    Ok(number)
}

/// `template % arguments`: a tuple gives several values, a mapping named ones.
pub(super) fn percent(
    context: &dyn RenderContext,
    template: &str,
    arguments: &TemplateValue,
) -> RenderResult<TemplateValue> {
    super::fault::touch(template.len())?;
    let mut out = TextBuffer::default();
    let mut rest = template;
    let single = [arguments.clone()];
    let values: &[TemplateValue] = match arguments {
        TemplateValue::Tuple(seq) => &seq.items,
        _ => &single,
    };
    let mut used = 0;
    let mut next = || -> RenderResult<TemplateValue> {
        let value = values.get(used).cloned();
        used += 1;
        value.ok_or_else(|| TemplateFault::failed("not enough arguments for format string"))
    };
    let mut used_names = false;
    while let Some(place) = rest.find('%') {
        out.push(&rest[..place])?;
        rest = &rest[place + 1..];
        let mut layout = FormatSpec::default();
        let mut named = None;
        if let Some(after) = rest.strip_prefix('(') {
            let TemplateValue::Dict(dict) = arguments else { return fail("format requires a mapping") };
            let end = after.find(')').ok_or_else(|| TemplateFault::failed("incomplete format key"))?;
            let key = &after[..end];
            named = Some(
                dict.get_str(key)
                    .cloned()
                    .ok_or_else(|| TemplateFault::failed(format!("KeyError: '{key}'")))?,
            );
            used_names = true;
            rest = &after[end + 1..];
        }
        while let Some(flag) = rest.chars().next().filter(|c| "#0- +".contains(*c)) {
            match flag {
                '#' => layout.is_alternate = true,
                '0' => layout.is_zero_padded = true,
                '-' => layout.align = Some('<'),
                '+' => layout.sign = Some('+'),
                _ => layout.sign = layout.sign.or(Some(' ')),
            }
            rest = &rest[1..];
        }
        let mut star = |rest: &mut &str| -> RenderResult<Option<i128>> {
            let Some(after) = rest.strip_prefix('*') else { return Ok(None) };
            *rest = after;
            match next()? {
                TemplateValue::Int(number) => Ok(Some(number)),
                _ => fail("* wants int"),
            }
        };
        let digits = |rest: &mut &str| -> RenderResult<Option<usize>> {
            let length = rest.bytes().take_while(u8::is_ascii_digit).count();
            let number = if length > 0 { Some(number_of(&rest[..length])?) } else { None };
            *rest = &rest[length..];
            Ok(number)
        };
        if let Some(width) = star(&mut rest)? {
            layout.align = if width < 0 { Some('<') } else { layout.align };
            layout.width = number_of(&width.unsigned_abs().to_string())?;
        } else {
            layout.width = digits(&mut rest)?.unwrap_or(0);
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            layout.precision = match star(&mut rest)? {
                Some(precision) => Some(number_of(&precision.max(0).to_string())?),
                None => Some(digits(&mut rest)?.unwrap_or(0)),
            };
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let Some(kind) = rest.chars().next() else { return fail("incomplete format") };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push("%")?;
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => next()?,
        };
        one_percent(context, kind, &value, layout, &mut out)?;
    }
    out.push(rest)?;
    let is_left = match arguments {
        TemplateValue::Tuple(seq) => used < seq.items.len(),
        TemplateValue::Dict(_) | TemplateValue::List(_) => false,
        _ => used == 0 && !used_names,
    };
    if is_left {
        return fail("not all arguments converted during string formatting");
    }
    out.into_value()
}

fn one_percent(
    context: &dyn RenderContext,
    kind: char,
    value: &TemplateValue,
    mut layout: FormatSpec,
    out: &mut TextBuffer,
) -> RenderResult<()> {
    let wants = |what: &str| -> RenderResult<()> {
        fail(format!("%{kind} format: {what} is required, not {}", value.type_name()))
    };
    if layout.is_zero_padded && layout.align.is_none() && !"sracR".contains(kind) {
        layout.fill = Some('0');
        layout.align = Some('=');
    }
    layout.align = layout.align.or(Some('>'));
    match kind {
        's' | 'r' | 'a' => {
            let mut text = TextBuffer::default();
            if kind == 's' {
                print::print(context, value, &mut text)?;
            } else {
                print::repr(context, value, &mut text, 0)?;
            }
            let text = text.into_string();
            pad(&cut(&text, layout.precision), &layout, out)
        }
        'c' => match value {
            TemplateValue::Text(text) if text.len() == 1 => pad(text.as_str(), &layout, out),
            TemplateValue::Int(code) => match u32::try_from(*code).ok().and_then(char::from_u32) {
                Some(character) => pad(&character.to_string(), &layout, out),
                None => fail("%c arg not in range(0x110000)"),
            },
            _ => fail("%c requires int or char"),
        },
        'd' | 'i' | 'u' => match (value, value.as_int()) {
            (_, Some(number)) => digits(number, 10, &layout, out),
            (TemplateValue::Float(number), _) if number.is_finite() && number.abs() < 1e38 => {
                digits(*number as i128, 10, &layout, out)
            }
            _ => wants("a real number"),
        },
        'o' | 'x' | 'X' => match value.as_int() {
            Some(number) => {
                layout.kind = Some(kind);
                digits(number, if kind == 'o' { 8 } else { 16 }, &layout, out)
            }
            None => wants("an integer"),
        },
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.as_float() {
            Some(number) => {
                layout.kind = Some(kind);
                layout.precision = layout.precision.or(Some(6));
                real(number, &layout, out)
            }
            None => fail(format!("must be real number, not {}", value.type_name())),
        },
        other => fail(format!("unsupported format character '{other}'")),
    }
}

/// `template.format(*arguments, **named)`.
pub(super) fn braces(
    context: &mut dyn RenderContext,
    template: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
) -> RenderResult<TemplateValue> {
    let mut out = TextBuffer::default();
    fields(context, template, arguments, named, &mut 0, &mut out, 0)?;
    out.into_value()
}

fn fields(
    context: &mut dyn RenderContext,
    template: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
    automatic: &mut usize,
    out: &mut TextBuffer,
    depth: usize,
) -> RenderResult<()> {
    if depth > 1 {
        return fail("Max string recursion exceeded");
    }
    let mut rest = template;
    while let Some(place) = rest.find(['{', '}']) {
        out.push(&rest[..place])?;
        let is_open = rest.as_bytes()[place] == b'{';
        let after = &rest[place + 1..];
        if after.starts_with(if is_open { '{' } else { '}' }) {
            out.push(if is_open { "{" } else { "}" })?;
            rest = &after[1..];
            continue;
        }
        if !is_open {
            return fail("Single '}' encountered in format string");
        }
        let mut open = 1;
        let end = after
            .bytes()
            .position(|byte| {
                open += i32::from(byte == b'{') - i32::from(byte == b'}');
                open == 0
            })
            .ok_or_else(|| TemplateFault::failed("expected '}' before end of string"))?;
        let field = &after[..end];
        rest = &after[end + 1..];
        let (head, spec) = match field.find(':') {
            Some(colon) if !field[..colon].contains('[') || field[..colon].contains(']') => {
                (&field[..colon], &field[colon + 1..])
            }
            _ => (field, ""),
        };
        let (path, conversion) = match head.split_once('!') {
            Some((path, conversion)) => (path, Some(conversion)),
            None => (head, None),
        };
        let value = looked_up(context, path, arguments, named, automatic)?;
        let value = match conversion {
            None => value,
            Some("s") => print::string(context, &value)?,
            Some("r" | "a") => {
                let mut text = TextBuffer::default();
                print::repr(context, &value, &mut text, 0)?;
                text.into_value()?
            }
            Some(other) => return fail(format!("Unknown conversion specifier '{other}'")),
        };
        let mut nested = TextBuffer::default();
        if spec.contains(['{', '}']) {
            fields(context, spec, arguments, named, automatic, &mut nested, depth + 1)?;
        } else {
            nested.push(spec)?;
        }
        by_spec(context, &value, nested.as_str(), out)?;
    }
    out.push(rest)
}

/// The value that `0.name[key]` names.
fn looked_up(
    context: &mut dyn RenderContext,
    path: &str,
    arguments: &[TemplateValue],
    named: &[(String, TemplateValue)],
    automatic: &mut usize,
) -> RenderResult<TemplateValue> {
    let first = path.find(['.', '[']).unwrap_or(path.len());
    let (name, mut rest) = path.split_at(first);
    let mut value = if name.is_empty() || name.bytes().all(|byte| byte.is_ascii_digit()) {
        let index = if name.is_empty() { *automatic } else { number_of(name)? };
        *automatic += usize::from(name.is_empty());
        arguments.get(index).cloned().ok_or_else(|| {
            TemplateFault::failed("Replacement index out of range for positional args tuple")
        })?
    } else {
        super::fault::step(named.len() as u64 / 8)?;
        let found = named.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        found.ok_or_else(|| TemplateFault::failed(format!("KeyError: '{name}'")))?
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            value = context.attribute(&value, &after[..end])?;
            rest = &after[end..];
        } else {
            let after = rest.strip_prefix('[').unwrap_or(rest);
            let end = after.find(']').ok_or_else(|| TemplateFault::failed("Missing ']' in format string"))?;
            let key = &after[..end];
            let key = match key.parse::<i128>() {
                Ok(index) => TemplateValue::Int(index),
                Err(_) => TemplateValue::text(key)?,
            };
            value = context.item(&value, &key)?;
            rest = &after[end + 1..];
        }
    }
    Ok(value)
}

/// `format(value, spec)`.
fn by_spec(
    context: &dyn RenderContext,
    value: &TemplateValue,
    spec: &str,
    out: &mut TextBuffer,
) -> RenderResult<()> {
    if spec.is_empty() {
        return print::print(context, value, out);
    }
    let mut layout = parse_spec(spec)?;
    if layout.is_zero_padded && layout.align.is_none() {
        layout.fill = layout.fill.or(Some('0'));
        layout.align = Some(if value.as_str().is_some() { '<' } else { '=' });
    }
    let unknown = |kind: char| -> RenderResult<()> {
        fail(format!("Unknown format code '{kind}' for object of type '{}'", value.type_name()))
    };
    match value {
        TemplateValue::Text(text) => match layout.kind {
            None | Some('s') if layout.align == Some('=') => {
                fail("'=' alignment not allowed in string format specifier")
            }
            None | Some('s') => {
                layout.align = layout.align.or(Some('<'));
                pad(&cut(text.as_str(), layout.precision), &layout, out)
            }
            Some(kind) => unknown(kind),
        },
        TemplateValue::Int(_) | TemplateValue::Bool(_) => {
            let number = value.as_int().unwrap_or(0);
            layout.align = layout.align.or(Some('>'));
            match layout.kind {
                None | Some('d' | 'n') => digits(number, 10, &layout, out),
                Some('b') => digits(number, 2, &layout, out),
                Some('o') => digits(number, 8, &layout, out),
                Some('x' | 'X') => digits(number, 16, &layout, out),
                Some('c') => match u32::try_from(number).ok().and_then(char::from_u32) {
                    Some(character) => pad(&character.to_string(), &layout, out),
                    None => fail("%c arg not in range(0x110000)"),
                },
                Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => {
                    layout.precision = layout.precision.or(Some(6));
                    real(number as f64, &layout, out)
                }
                Some(kind) => unknown(kind),
            }
        }
        TemplateValue::Float(number) => {
            layout.align = layout.align.or(Some('>'));
            match layout.kind {
                None | Some('n' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => {
                    if layout.kind.is_some() {
                        layout.precision = layout.precision.or(Some(6));
                    }
                    real(*number, &layout, out)
                }
                Some(kind) => unknown(kind),
            }
        }
        other => fail(format!("unsupported format string passed to {}.__format__", other.type_name())),
    }
}

fn parse_spec(spec: &str) -> RenderResult<FormatSpec> {
    let mut layout = FormatSpec::default();
    let characters: Vec<char> = spec.chars().collect();
    let mut at = 0;
    let is_align = |place: usize| characters.get(place).is_some_and(|c| "<>=^".contains(*c));
    if is_align(1) {
        layout.fill = characters.first().copied();
        layout.align = characters.get(1).copied();
        at = 2;
    } else if is_align(0) {
        layout.align = characters.first().copied();
        at = 1;
    }
    let mut take = |wanted: &str| {
        let found = characters.get(at).copied().filter(|c| wanted.contains(*c));
        at += usize::from(found.is_some());
        found
    };
    layout.sign = take("+- ");
    layout.is_alternate = take("#").is_some();
    layout.is_zero_padded = take("0").is_some();
    let mut digits = String::new();
    while let Some(digit) = take("0123456789") {
        digits.push(digit);
    }
    layout.width = if digits.is_empty() { 0 } else { number_of(&digits)? };
    layout.grouping = take(",_");
    if take(".").is_some() {
        digits.clear();
        while let Some(digit) = take("0123456789") {
            digits.push(digit);
        }
        if digits.is_empty() {
            return fail("Format specifier missing precision");
        }
        layout.precision = Some(number_of(&digits)?);
    }
    layout.kind = characters.get(at).copied();
    if characters.len() > at + 1 {
        return fail(format!("Invalid format specifier '{spec}'"));
    }
    Ok(layout)
}

fn cut(text: &str, most: Option<usize>) -> String {
    match most {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    }
}

/// `text` between its fills.
fn pad(text: &str, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
    signed("", text, layout, out)
}

/// A number's sign (and prefix) and its digits between their fills.
fn signed(sign: &str, digits: &str, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
    let length = sign.chars().count() + digits.chars().count();
    let missing = layout.width.saturating_sub(length);
    let fill = layout.fill.unwrap_or(' ').to_string();
    let (before, inside, after) = match layout.align {
        Some('<') => (0, 0, missing),
        Some('^') => (missing / 2, 0, missing - missing / 2),
        Some('=') => (0, missing, 0),
        _ => (missing, 0, 0),
    };
    out.repeat(&fill, before)?;
    out.push(sign)?;
    out.repeat(&fill, inside)?;
    out.push(digits)?;
    out.repeat(&fill, after)
}

fn sign_of(is_negative: bool, layout: &FormatSpec) -> &'static str {
    match (is_negative, layout.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

/// Separators every three digits (four where the base is a power of two).
fn grouped(digits: &str, separator: Option<char>, width: usize) -> String {
    let Some(separator) = separator else { return digits.to_owned() };
    let (whole, rest) = digits.split_at(digits.find(['.', 'e', 'E']).unwrap_or(digits.len()));
    let count = whole.len();
    let mut out = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (count - index) % width == 0 {
            out.push(separator);
        }
        out.push(digit);
    }
    out + rest
}

fn digits(number: i128, base: u32, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
    let magnitude = number.unsigned_abs();
    let mut text = match (base, layout.kind) {
        (2, _) => format!("{magnitude:b}"),
        (8, _) => format!("{magnitude:o}"),
        (16, Some('X')) => format!("{magnitude:X}"),
        (16, _) => format!("{magnitude:x}"),
        _ => magnitude.to_string(),
    };
    if let Some(precision) = layout.precision {
        let zeros = precision.saturating_sub(text.len());
        room(zeros)?;
        text.insert_str(0, &"0".repeat(zeros));
    }
    let text = grouped(&text, layout.grouping, if base == 10 { 3 } else { 4 });
    let mut sign = sign_of(number < 0, layout).to_owned();
    if layout.is_alternate {
        sign.push_str(match (base, layout.kind) {
            (2, _) => "0b",
            (8, _) => "0o",
            (16, Some('X')) => "0X",
            (16, _) => "0x",
            _ => "",
        });
    }
    signed(&sign, &text, layout, out)
}

/// A real number by its presentation; `precision` is set where there is one.
fn real(number: f64, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
    let kind = layout.kind.unwrap_or('r');
    let magnitude = number.abs();
    let mut text = if magnitude.is_finite() {
        finite(magnitude, kind, layout)?
    } else if number.is_nan() {
        "nan".to_owned()
    } else {
        "inf".to_owned()
    };
    if kind == '%' {
        text.push('%');
    }
    if kind.is_ascii_uppercase() {
        text = text.to_uppercase();
    }
    let text = grouped(&text, layout.grouping, 3);
    signed(sign_of(number.is_sign_negative() && !number.is_nan(), layout), &text, layout, out)
}

fn finite(number: f64, kind: char, layout: &FormatSpec) -> RenderResult<String> {
    let precision = layout.precision.unwrap_or(6);
    room(precision)?;
    Ok(match kind.to_ascii_lowercase() {
        'f' => fixed(number, precision, layout.is_alternate),
        '%' => fixed(number * 100.0, precision, layout.is_alternate),
        'e' => scientific(number, precision, layout.is_alternate),
        'g' | 'n' => general(number, precision.max(1), layout.is_alternate, false),
        _ => match layout.precision {
            None => print::float(number),
            Some(precision) => general(number, precision.max(1), layout.is_alternate, true),
        },
    })
}

/// Digits after the point; those past what a double holds are zeros.
fn fixed(number: f64, precision: usize, keeps_point: bool) -> String {
    let exact = precision.min(MOST_DIGITS);
    let mut text = format!("{number:.exact$}");
    text.extend(std::iter::repeat_n('0', precision - exact));
    if keeps_point && precision == 0 {
        text.push('.');
    }
    text
}

fn scientific(number: f64, precision: usize, keeps_point: bool) -> String {
    let exact = precision.min(MOST_DIGITS);
    let text = format!("{number:.exact$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let zeros = "0".repeat(precision - exact);
    let point = if keeps_point && precision == 0 { "." } else { "" };
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}{zeros}{point}e{sign}{:02}", exponent.abs())
}

/// `%g`: so many significant digits, without zeros at the end; `is_str` keeps a digit after the point.
fn general(number: f64, precision: usize, keeps_zeros: bool, is_str: bool) -> String {
    let digits = precision.min(MOST_DIGITS);
    let rounded = format!("{number:.*e}", digits - 1);
    let exponent: i64 = rounded.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let limit = precision as i64 - i64::from(is_str);
    let is_plain = (-4..limit.max(i64::from(!is_str))).contains(&exponent) || (number == 0.0);
    let trimmed = |text: String| -> String {
        if keeps_zeros || !text.contains('.') {
            return text;
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if is_plain {
        let places = usize::try_from(digits as i64 - 1 - exponent).unwrap_or(0);
        let text = trimmed(fixed(number, places, keeps_zeros));
        return if is_str && !text.contains('.') { text + ".0" } else { text };
    }
    let text = scientific(number, digits - 1, keeps_zeros);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "+00"));
    format!("{}e{exponent}", trimmed(mantissa.to_owned()))
}
