//! `--set section.key=value`.

use std::str::FromStr;

use selfplay_records::Problems;

/// One override of a recipe's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Override {
    /// `section.key`, or a key of the top.
    pub key: String,
    /// As typed: a TOML value, else a string.
    pub value: String,
}

impl Override {
    /// `key = value`, as if typed.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into() }
    }

    /// The TOML value of what was typed; text that is none is a string.
    pub fn to_value(&self) -> toml::Value {
        // A line break would let one value carry further keys.
        let parsed = (!self.value.contains('\n'))
            .then(|| toml::from_str::<toml::Table>(&format!("value = {}", self.value)).ok())
            .flatten();
        match parsed.and_then(|mut table| table.remove("value")) {
            // No key takes a date: one that is typed is meant as text.
            Some(toml::Value::Datetime(_)) | None => toml::Value::String(self.value.clone()),
            Some(value) => value,
        }
    }

    /// Puts the value into `table`.
    pub(crate) fn apply(&self, table: &mut toml::Table, problems: &mut Problems) {
        let mut names = self.key.split('.').collect::<Vec<_>>();
        let Some(last) = names.pop() else { return };
        let mut place = table;
        for name in names {
            let inner =
                place.entry(name.to_owned()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let toml::Value::Table(inner) = inner else {
                problems.key(
                    &self.key,
                    format!("--set goes into a section, and {name} is a value, not a section"),
                );
                return;
            };
            place = inner;
        }
        place.insert(last.to_owned(), self.to_value());
    }
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("expected section.key=value, as in train.learning_rate=1e-6, found {text:?}");
        let (key, value) = text.split_once('=').ok_or_else(wanted)?;
        let key = key.trim();
        let plain = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        };
        if !key.split('.').all(plain) {
            return Err(wanted());
        }
        Ok(Self::new(key, value.trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> toml::Value {
        Override::from_str(text).unwrap().to_value()
    }

    #[test]
    fn a_toml_value_else_a_string() {
        assert_eq!(value("a.b=1"), toml::Value::Integer(1));
        assert_eq!(value("a.b=5e-07"), toml::Value::Float(5e-7));
        assert_eq!(value("a.b=true"), toml::Value::Boolean(true));
        assert_eq!(value("a.b=gpo"), toml::Value::String("gpo".into()));
        assert_eq!(value("a.b=\"1\""), toml::Value::String("1".into()));
        assert_eq!(value("a.b=2024-01-01"), toml::Value::String("2024-01-01".into()));
        assert_eq!(value("a.b=1\nc = 2"), toml::Value::String("1\nc = 2".into()));
        assert!(value("a.b=[\"x\", \"y\"]").is_array());
    }

    #[test]
    fn a_nested_key_makes_its_sections() {
        let mut table = toml::Table::new();
        let mut problems = Problems::default();
        Override::new("train.lora.rank", "8").apply(&mut table, &mut problems);
        Override::new("name", "x").apply(&mut table, &mut problems);
        Override::new("name.y", "x").apply(&mut table, &mut problems);
        assert_eq!(table["train"]["lora"]["rank"].as_integer(), Some(8));
        assert_eq!(problems.list.len(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["x", "=1", "a..b=1", "a b=1"] {
            assert!(Override::from_str(text).is_err(), "{text}");
        }
    }
}
