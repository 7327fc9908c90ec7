//! Integers in JSON that have more than 64 bits.
//!
//! The parser reads such an integer as the nearest float, which changes its digits without an error. So they are found in
//! the text before it is parsed, and stand in the row as strings of their digits: a field that is carried along keeps all
//! digits, and a token id or a score is refused by name.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// Digits of the smallest integer that may have more than 64 bits: 2⁶³ has 19.
const LONG: usize = 19;

/// Finds the large integers of a text of JSON that arrives piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Scanner {
    place: IntegerPlace,
    /// The integer that is being read.
    digits: String,
    found: Vec<String>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum IntegerPlace {
    #[default]
    Between,
    Integer,
    Float,
    Text,
    Escape,
}

impl Scanner {
    /// Reads on.
    pub(crate) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.place = match (self.place, byte) {
                (IntegerPlace::Text, b'\\') => IntegerPlace::Escape,
                (IntegerPlace::Text, b'"') => IntegerPlace::Between,
                (IntegerPlace::Text | IntegerPlace::Escape, _) => IntegerPlace::Text,
                (IntegerPlace::Integer, b'0'..=b'9') | (IntegerPlace::Between, b'0'..=b'9' | b'-') => {
                    self.digits.push(char::from(byte));
                    IntegerPlace::Integer
                }
                (IntegerPlace::Integer, b'.' | b'e' | b'E') => {
                    self.digits.clear();
                    IntegerPlace::Float
                }
                (IntegerPlace::Float, b'0'..=b'9' | b'+' | b'-' | b'e' | b'E') => IntegerPlace::Float,
                (_, byte) => {
                    self.end_integer();
                    if byte == b'"' { IntegerPlace::Text } else { IntegerPlace::Between }
                }
            };
        }
    }

    fn end_integer(&mut self) {
        if is_large(&self.digits) {
            self.found.push(std::mem::take(&mut self.digits));
        }
        self.digits.clear();
    }

    /// The large integers since the last call, in their order. The text is between two values here.
    pub(crate) fn take(&mut self) -> Vec<String> {
        self.end_integer();
        self.place = IntegerPlace::Between;
        std::mem::take(&mut self.found)
    }
}

/// The large integers of a text of JSON, in their order.
pub(crate) fn find(json: &[u8]) -> Vec<String> {
    if !has_long_run(json) {
        return Vec::new();
    }
    let mut scanner = Scanner::default();
    scanner.read(json);
    scanner.take()
}

/// Whether a text has so many digits in a row as a large integer has. Every such run covers a multiple of its length.
fn has_long_run(json: &[u8]) -> bool {
    let is_digit = |byte: &&u8| byte.is_ascii_digit();
    (LONG - 1..json.len()).step_by(LONG).any(|at| {
        let after = json[at..].iter().take_while(is_digit).count();
        after > 0 && after + json[..at].iter().rev().take_while(is_digit).count() >= LONG
    })
}

/// Whether a text is an integer of more than 64 bits.
pub(crate) fn is_large(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.len() >= LONG
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<i64>().is_err()
        && text.parse::<u64>().is_err()
}

/// Puts the digits of `large` (the integers of [`find`], in their order) in the place of the floats that the parser made of
/// them.
pub(crate) fn restore(value: &mut Value, large: Vec<String>) {
    if large.is_empty() {
        return;
    }
    // By the float that each became: a field that stands twice in its object has left the floats fewer than the digits.
    let mut left: HashMap<u64, VecDeque<String>> = HashMap::new();
    for digits in large {
        if let Ok(float) = digits.parse::<f64>() {
            left.entry(float.to_bits()).or_default().push_back(digits);
        }
    }
    restore_all(value, &mut left);
}

fn restore_all(value: &mut Value, left: &mut HashMap<u64, VecDeque<String>>) {
    match value {
        Value::Number(number) if number.is_f64() => {
            let same = number.as_f64().and_then(|float| left.get_mut(&float.to_bits()));
            if let Some(digits) = same.and_then(VecDeque::pop_front) {
                *value = Value::String(digits);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| restore_all(item, left)),
        Value::Object(fields) => fields.values_mut().for_each(|field| restore_all(field, left)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn restored(text: &str) -> Value {
        let mut value = serde_json::from_str(text).unwrap();
        restore(&mut value, find(text.as_bytes()));
        value
    }

    /// Rows of millions of them take no longer for each than rows of a few.
    #[test]
    fn many_large_integers_are_restored_in_one_pass() {
        let numbers: Vec<String> = (0..200_000_u128).map(|n| (10_u128.pow(25) + n).to_string()).collect();
        let floats = "0.5,".repeat(200_000);
        let text = format!("[{floats}{}]", numbers.join(","));
        let started = std::time::Instant::now();
        let value = restored(&text);
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "{:?}", started.elapsed());
        let strings: Vec<&str> = value.as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert_eq!(strings, numbers);
    }

    #[test]
    fn a_field_that_stands_twice_leaves_the_last() {
        let text = r#"{"a": 123456789012345678901, "b": 99999999999999999999, "a": 123456789012345678902}"#;
        assert_eq!(restored(text)["b"], json!("99999999999999999999"));
    }

    #[test]
    fn large_integers_keep_their_digits_and_nothing_else_changes() {
        let text = r#"{"a":18446744073709551616,"b":[-9223372036854775809,1e20,{"c":123456789012345678901}],
            "d":18446744073709551615,"e":-9223372036854775808,"f":"123456789012345678901 \" 123456789012345678902",
            "g":100000000000000000000.5,"h":123456789012345678902}"#;
        assert_eq!(
            restored(text),
            json!({
                "a": "18446744073709551616", "b": ["-9223372036854775809", 1e20, {"c": "123456789012345678901"}],
                "d": u64::MAX, "e": i64::MIN, "f": "123456789012345678901 \" 123456789012345678902",
                "g": 100000000000000000000.5, "h": "123456789012345678902",
            })
        );
        assert_eq!(restored("123456789012345678901"), json!("123456789012345678901"));
    }

    proptest! {
        #[test]
        fn every_integer_is_found_exactly_where_it_is_large(number: i128, before in "[ a-z]{0,40}", split in 0usize..80) {
            let text = format!("{{\"{before}\":{number}, \"x\": [{number}]}}");
            let is_large = i64::try_from(number).is_err() && u64::try_from(number).is_err();
            let want = if is_large { vec![number.to_string(); 2] } else { Vec::new() };
            prop_assert_eq!(find(text.as_bytes()), want.clone());
            let mut scanner = Scanner::default();
            let (first, rest) = text.as_bytes().split_at(split.min(text.len()));
            scanner.read(first);
            scanner.read(rest);
            prop_assert_eq!(scanner.take(), want);
        }
    }
}
