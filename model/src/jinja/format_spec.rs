//! How one value is laid out in a text, as both of Python's ways to format have it: padded, signed, grouped and rounded.

use super::context::RenderContext;
use super::fault::{RenderResult, TemplateFault, fail, room};
use super::print;
use super::text_buffer::TextBuffer;
use super::value::TemplateValue;

/// Digits after the point beyond which a double has zeros only.
const MOST_DIGITS: usize = 1100;

/// How one value is laid out.
#[derive(Clone, Debug, Default)]
pub(super) struct FormatSpec {
    pub(super) fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    pub(super) align: Option<char>,
    /// `+`, `-` or a space.
    pub(super) sign: Option<char>,
    pub(super) is_alternate: bool,
    pub(super) is_zero_padded: bool,
    pub(super) width: usize,
    /// `,` or `_` between thousands.
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    /// The letter of the presentation; none: as `str` writes it.
    pub(super) kind: Option<char>,
}

pub(super) fn number_of(text: &str) -> RenderResult<usize> {
    let number: usize =
        text.parse().map_err(|_| TemplateFault::failed("a width or precision is too large"))?;
    room(number)?;
    Ok(number)
}

/// `format(value, spec)`.
pub(super) fn by_spec(
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

pub(super) fn cut(text: &str, most: Option<usize>) -> String {
    match most {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    }
}

/// `text` between its fills.
pub(super) fn pad(text: &str, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
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

pub(super) fn digits(number: i128, base: u32, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
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
pub(super) fn real(number: f64, layout: &FormatSpec, out: &mut TextBuffer) -> RenderResult<()> {
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
