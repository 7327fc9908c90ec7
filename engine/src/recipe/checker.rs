//! Answers that a program can check: `eval.answers` names a column, `eval.checker` is how a response is compared
//! with it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a response is compared with the known answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckerKind {
    /// The trimmed response is the trimmed answer.
    #[default]
    Exact,
    /// The answer stands somewhere in the response.
    Contains,
    /// The response's last number equals the answer's.
    Number,
}

impl CheckerKind {
    /// Whether the response is right.
    pub fn is_right(self, response: &str, answer: &str) -> bool {
        match self {
            Self::Exact => response.trim() == answer.trim(),
            Self::Contains => response.contains(answer.trim()),
            Self::Number => match (last_number(response), last_number(answer)) {
                (Some(given), Some(wanted)) => (given - wanted).abs() <= 1e-9 * wanted.abs().max(1.0),
                _ => false,
            },
        }
    }
}

/// The last decimal number in a text; commas between digits group thousands.
fn last_number(text: &str) -> Option<f64> {
    let characters: Vec<char> = text.chars().collect();
    let last_digit = characters.iter().rposition(char::is_ascii_digit)?;
    let mut first = last_digit;
    while first > 0 {
        let before = characters[first - 1];
        let joins = matches!(before, '.' | ',') && first > 1 && characters[first - 2].is_ascii_digit();
        if !(before.is_ascii_digit() || joins) {
            break;
        }
        first -= 1;
    }
    let digits: String = characters[first..=last_digit].iter().filter(|c| **c != ',').collect();
    let value: f64 = digits.parse().ok()?;
    // A minus belongs to the number only where it does not join two words or two numbers.
    let minus = first > 0
        && matches!(characters[first - 1], '-' | '−')
        && (first == 1 || !characters[first - 2].is_alphanumeric());
    Some(if minus { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_compared() {
        assert_eq!(last_number("12 + 30 = 42."), Some(42.0));
        assert_eq!(last_number("it is 1,234.5 dollars"), Some(1234.5));
        assert_eq!(last_number("x = -3"), Some(-3.0));
        assert_eq!(last_number("7-3"), Some(3.0));
        assert_eq!(last_number("1.2.3"), None);
        assert_eq!(last_number("none"), None);
        assert!(CheckerKind::Number.is_right("so the answer is 42", "42.0"));
        assert!(!CheckerKind::Number.is_right("43", "42"));
        assert!(!CheckerKind::Number.is_right("", "42"));
    }

    #[test]
    fn texts_are_compared() {
        assert!(CheckerKind::Exact.is_right(" yes\n", "yes"));
        assert!(!CheckerKind::Exact.is_right("yes!", "yes"));
        assert!(CheckerKind::Contains.is_right("I say yes!", "yes"));
        assert!(!CheckerKind::Contains.is_right("no", "yes"));
    }
}
