//! Typed reading of configuration keys, with errors that name file and key.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// The longest context, or window, that a file may have; bounds like this one are far above any published model.
pub(super) const MOST_POSITIONS: usize = 1 << 30;

/// A JSON object together with the place it came from.
pub(super) struct Fields<'a> {
    pub(super) object: &'a Map<String, Value>,
    pub(super) path: &'a Path,
    /// What goes before a key in messages, e.g. `rope_parameters.`; empty at the top.
    pub(super) prefix: &'a str,
}

impl<'a> Fields<'a> {
    /// The value of `key`; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// True where the key is written, even as `null`.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// An error about `key`.
    pub(super) fn wrong(&self, key: &str, what: &str, remedy: &str) -> ModelError {
        ModelError::input(self.path, format!("`{}{key}` {what}", self.prefix), remedy)
    }

    fn wrong_type(&self, key: &str, value: &Value, want: &str) -> ModelError {
        self.wrong(key, &format!("is {}", shorten(value)), &format!("it must be {want}"))
    }

    /// A count between 1 and `most`, where the key is there.
    pub(super) fn count(&self, key: &str, most: usize) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let count = value.as_u64().or_else(|| {
            // A count written as 4096.0 means the same.
            value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0 && *x < 9e15).map(|x| x as u64)
        });
        match count {
            Some(n) if n >= 1 && n <= most as u64 => Ok(Some(n as usize)),
            _ => Err(self.wrong_type(key, value, &format!("a whole number from 1 to {most}"))),
        }
    }

    /// A count that must be there.
    pub(super) fn required_count(&self, key: &str, most: usize) -> Result<usize, ModelError> {
        self.count(key, most)?.ok_or_else(|| {
            self.wrong(
                key,
                "is missing",
                &format!("config.json must give it, a whole number from 1 to {most}"),
            )
        })
    }

    /// A count, `default` where the key is absent; without a default it must be there.
    pub(super) fn count_or(
        &self,
        key: &str,
        most: usize,
        default: Option<usize>,
    ) -> Result<usize, ModelError> {
        match (self.count(key, most)?, default) {
            (Some(count), _) | (None, Some(count)) => Ok(count),
            (None, None) => self.required_count(key, most),
        }
    }

    /// A finite number above 0, where the key is there.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(x) if x.is_finite() && x > 0.0 => Ok(Some(x)),
            _ => Err(self.wrong_type(key, value, "a number above 0")),
        }
    }

    /// A number above 0 that must be there.
    pub(super) fn required_positive(&self, key: &str) -> Result<f64, ModelError> {
        self.positive(key)?.ok_or_else(|| self.wrong(key, "is missing", "give it a number above 0"))
    }

    /// A list of so many numbers above 0, which must be there.
    pub(super) fn required_positives(&self, key: &str, count: usize) -> Result<Vec<f64>, ModelError> {
        let want = format!("a list of {count} numbers above 0");
        let Some(value) = self.get(key) else {
            return Err(self.wrong(key, "is missing", &format!("give it: {want}")));
        };
        let number = |value: &Value| value.as_f64().filter(|x| x.is_finite() && *x > 0.0);
        value
            .as_array()
            .filter(|values| values.len() == count)
            .and_then(|values| values.iter().map(number).collect())
            .ok_or_else(|| self.wrong_type(key, value, &want))
    }

    /// A flag, `default` where the key is absent.
    pub(super) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => Err(self.wrong_type(key, value, "true or false")),
        }
    }

    /// A string, where the key is there.
    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong_type(key, value, "a string")),
        }
    }

    /// An object below this one, where the key is there. `prefix` is what its keys are called in messages.
    pub(super) fn object(&self, key: &str, prefix: &'a str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(Fields { object, path: self.path, prefix })),
            Some(value) => Err(self.wrong_type(key, value, "an object")),
        }
    }

    /// Token ids written as one number or a list of them; empty where the key is absent.
    pub(super) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        token_ids(value).ok_or_else(|| self.wrong_type(key, value, "a token id or a list of token ids"))
    }
}

/// Token ids of a configuration value: one number or a list of numbers.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(values) => values.iter().map(one).collect(),
        value => one(value).map(|id| vec![id]),
    }
}

/// A value as it stands in a message: its JSON, cut at 60 characters.
pub(super) fn shorten(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
