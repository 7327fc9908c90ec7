//! Filters of numbers: `abs`, `float`, `int`, `round`.

use super::call_arguments::CallArguments;
use super::fault::{RenderResult, fail};
use super::strings;
use super::value::{TemplateValue, undefined_fails};

pub(super) fn absolute(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [] = args.bind("abs", [])?;
    undefined_fails(value)?;
    match value {
        TemplateValue::Float(number) => Ok(TemplateValue::Float(number.abs())),
        other => match other.as_int().and_then(i128::checked_abs) {
            Some(number) => Ok(TemplateValue::Int(number)),
            None => fail(format!("bad operand type for abs(): '{}'", other.type_name())),
        },
    }
}

/// `float(value)`; `None` where Python raises.
pub(super) fn to_float(value: &TemplateValue) -> Option<f64> {
    match value {
        TemplateValue::Text(text) => parse_float(text.as_str()),
        other => other.as_float(),
    }
}

/// A number's text with the digits of other scripts as ASCII's.
fn ascii_digits(text: &str) -> String {
    let digit =
        |c: char| strings::decimal_digit(c).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c);
    text.trim_matches(super::lexer::is_space).chars().map(digit).collect()
}

fn parse_float(text: &str) -> Option<f64> {
    let text = &ascii_digits(text);
    let plain = without_underscores(text)?;
    let lower = plain.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    let is_word = ["inf", "infinity", "nan"].contains(&unsigned);
    if !is_word && !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    lower.parse().ok()
}

/// A number's text without the underscores that stand between its digits; `None` where one stands elsewhere.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let is_digit = |place: Option<usize>| {
        place.and_then(|place| bytes.get(place)).is_some_and(u8::is_ascii_alphanumeric)
    };
    for (place, byte) in bytes.iter().enumerate() {
        if *byte == b'_' && !(is_digit(place.checked_sub(1)) && is_digit(Some(place + 1))) {
            return None;
        }
    }
    Some(text.replace('_', ""))
}

fn parse_int(text: &str, base: u32) -> Option<i128> {
    let text = &ascii_digits(text);
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let prefix = prefixes.iter().find(|(prefix, of)| lower.starts_with(prefix) && (base == *of || base == 0));
    let (digits, base) = match prefix {
        Some((_, of)) => (lower[2..].strip_prefix('_').unwrap_or(&lower[2..]), *of),
        None => (lower.as_str(), if base == 0 { 10 } else { base }),
    };
    let digits = without_underscores(digits)?;
    if digits.is_empty() || !(2..=36).contains(&base) || !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    let number = i128::from_str_radix(&digits, base).ok()?;
    Some(if is_negative { -number } else { number })
}

pub(super) fn to_int(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [default, base] = args.bind("int", ["default", "base"])?;
    undefined_fails(value)?;
    let base = base.and_then(|base| base.as_int()).and_then(|base| u32::try_from(base).ok()).unwrap_or(10);
    let default = default.unwrap_or(TemplateValue::Int(0));
    let whole = |number: f64| -> RenderResult<Option<i128>> {
        if number.is_finite() && number.abs() >= 1e38 {
            return fail("an integer has more than 38 digits");
        }
        Ok(number.is_finite().then_some(number as i128))
    };
    let number = match value {
        TemplateValue::Float(number) if number.is_infinite() => {
            return fail("cannot convert float infinity to integer");
        }
        TemplateValue::Float(number) => whole(*number)?,
        TemplateValue::Text(text) => match parse_int(text.as_str(), base) {
            Some(number) => Some(number),
            None => match parse_float(text.as_str()) {
                Some(number) => whole(number)?,
                None => None,
            },
        },
        other => other.as_int(),
    };
    Ok(number.map_or(default, TemplateValue::Int))
}

pub(super) fn round(args: CallArguments, value: &TemplateValue) -> RenderResult<TemplateValue> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = match precision {
        None => 0,
        Some(precision) => match precision.as_int() {
            Some(precision) => i32::try_from(precision).unwrap_or(i32::MAX).clamp(-400, 1100),
            None => {
                return fail(format!(
                    "'{}' object cannot be interpreted as an integer",
                    precision.type_name()
                ));
            }
        },
    };
    undefined_fails(value)?;
    let method = method.map_or_else(|| TemplateValue::text("common"), Ok)?;
    let method = method.as_str().unwrap_or("");
    if !["common", "ceil", "floor"].contains(&method) {
        return fail("method must be common, ceil or floor");
    }
    if method == "common" {
        return match value {
            TemplateValue::Int(number) if precision >= 0 => Ok(TemplateValue::Int(*number)),
            TemplateValue::Int(number) => {
                Ok(TemplateValue::Int(round_whole(*number, precision.unsigned_abs())))
            }
            TemplateValue::Bool(truth) => Ok(TemplateValue::Int(i128::from(*truth))),
            TemplateValue::Float(number) => Ok(TemplateValue::Float(round_float(*number, precision))),
            other => fail(format!("type {} doesn't define __round__ method", other.type_name())),
        };
    }
    let Some(number) = value.as_float() else {
        return fail(format!("must be real number, not {}", value.type_name()));
    };
    let scale = 10_f64.powi(precision);
    let scaled = number * scale;
    let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
    if !whole.is_finite() {
        return fail("cannot convert float infinity to integer");
    }
    Ok(TemplateValue::Float(whole / scale))
}

/// Half to even, on the number as it is written out whole.
fn round_float(number: f64, precision: i32) -> f64 {
    if !number.is_finite() {
        return number;
    }
    if precision >= 0 {
        return format!("{number:.*}", precision.unsigned_abs() as usize).parse().unwrap_or(number);
    }
    let scale = 10_f64.powi(-precision);
    (number / scale).round_ties_even() * scale
}

fn round_whole(number: i128, places: u32) -> i128 {
    let Some(scale) = 10_i128.checked_pow(places) else { return 0 };
    let (quotient, rest) = (number.div_euclid(scale), number.rem_euclid(scale));
    let up = rest * 2 > scale || (rest * 2 == scale && quotient % 2 != 0);
    (quotient + i128::from(up)) * scale
}
