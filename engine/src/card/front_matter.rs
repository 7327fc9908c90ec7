//! A card's YAML: keys with a text or a list of texts.

use std::fmt::Write as _;

/// The YAML at a card's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FrontMatter {
    text: String,
}

impl FrontMatter {
    /// A key with a text.
    pub(super) fn text(&mut self, key: &str, value: &str) {
        let _ = writeln!(self.text, "{key}: {}", scalar(value));
    }

    /// A key with a list; nothing of an empty one.
    pub(super) fn list(&mut self, key: &str, values: &[String]) {
        if values.is_empty() {
            return;
        }
        let _ = writeln!(self.text, "{key}:");
        values.iter().for_each(|value| {
            let _ = writeln!(self.text, "- {}", scalar(value));
        });
    }

    /// With the lines that enclose it.
    pub(super) fn finish(self) -> String {
        format!("---\n{}---\n", self.text)
    }
}

/// A text as YAML: plain where no reader can take it for something else, else in quotes, as JSON.
fn scalar(value: &str) -> String {
    let plain = value.starts_with(|c: char| c.is_ascii_alphabetic())
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/'));
    let is_word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| value.eq_ignore_ascii_case(word));
    if plain && !is_word { value.to_owned() } else { serde_json::Value::from(value).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_yaml_could_misread_stands_in_quotes() {
        for (value, written) in [
            ("apache-2.0", "apache-2.0"),
            ("org/Name_1.5", "org/Name_1.5"),
            ("no", "\"no\""),
            ("1e3", "\"1e3\""),
            ("a: b", "\"a: b\""),
            ("a\nb", "\"a\\nb\""),
            ("- x", "\"- x\""),
            ("base_model:org/name", "\"base_model:org/name\""),
            ("", "\"\""),
        ] {
            assert_eq!(scalar(value), written);
        }
    }
}
