//! Typed access to the metadata; a fault names its key.

use super::Gguf;
use super::header::{ArrayEntry, MetadataEntry, TEXT, scalar};
use crate::error::ModelError;

const OTHER_FILE: &str = "take another file of the model, or convert it again";

impl Gguf {
    fn entry(&self, key: &str) -> Option<&MetadataEntry> {
        self.metadata.get(key)
    }

    fn of_other_type(&self, key: &str, want: &str) -> ModelError {
        self.wrong(key, &format!("is not {want}"), OTHER_FILE)
    }

    fn absent(&self, key: &str) -> ModelError {
        ModelError::input(&self.path, format!("its metadata lacks `{key}`"), OTHER_FILE)
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.entry(key) {
            None => Ok(None),
            Some(MetadataEntry::Text(range)) => match std::str::from_utf8(self.bytes(range)) {
                Ok(text) => Ok(Some(text)),
                Err(_) => Err(self.of_other_type(key, "UTF-8")),
            },
            Some(_) => Err(self.of_other_type(key, "a text")),
        }
    }

    pub(super) fn required_text(&self, key: &str) -> Result<&str, ModelError> {
        self.text(key)?.ok_or_else(|| self.absent(key))
    }

    /// A truth value.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.entry(key) {
            None => Ok(None),
            Some(MetadataEntry::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.of_other_type(key, "true or false")),
        }
    }

    /// A whole number that is not negative; a list of one and the same number is that number.
    pub(super) fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        let whole = |entry: &MetadataEntry| match entry {
            MetadataEntry::Integer(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let count = match self.entry(key) {
            None => return Ok(None),
            Some(MetadataEntry::Array(array)) => {
                let numbers = self.scalars(array);
                match numbers.first() {
                    Some(first) if numbers.iter().all(|number| number == first) => whole(first),
                    _ => return Err(self.wrong(key, "differs from layer to layer", "that is not supported")),
                }
            }
            Some(entry) => whole(entry),
        };
        count.map(Some).ok_or_else(|| self.of_other_type(key, "a whole number"))
    }

    pub(super) fn required_count(&self, key: &str) -> Result<usize, ModelError> {
        self.count(key)?.ok_or_else(|| self.absent(key))
    }

    /// A finite number.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.entry(key) {
            None => Ok(None),
            Some(MetadataEntry::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(MetadataEntry::Integer(number)) => Ok(Some(*number as f64)),
            Some(_) => Err(self.of_other_type(key, "a number")),
        }
    }

    /// A token's id.
    pub(super) fn token_id(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match self.entry(key) {
            None => Ok(None),
            // What a converter writes where there is none.
            Some(MetadataEntry::Integer(-1)) => Ok(None),
            Some(MetadataEntry::Integer(n)) => match u32::try_from(*n) {
                Ok(u32::MAX) => Ok(None),
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(self.of_other_type(key, "a token's id")),
            },
            Some(_) => Err(self.of_other_type(key, "a token's id")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&str>>, ModelError> {
        let Some(array) = self.list(key)? else { return Ok(None) };
        if array.element != TEXT {
            return Err(self.of_other_type(key, "a list of texts"));
        }
        let mut texts = Vec::with_capacity(array.count);
        let mut rest = self.bytes(&array.bytes);
        // The lengths were checked when the header was read.
        while let Some((length, after)) = rest.split_first_chunk::<8>() {
            let Some((text, after)) = after.split_at_checked(u64::from_le_bytes(*length) as usize) else {
                break;
            };
            let Ok(text) = std::str::from_utf8(text) else {
                let what = format!("holds a text that is not UTF-8 (number {})", texts.len());
                return Err(self.wrong(key, &what, OTHER_FILE));
            };
            texts.push(text);
            rest = after;
        }
        Ok(Some(texts))
    }

    /// A list of numbers.
    pub(super) fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ModelError> {
        let Some(array) = self.list(key)? else { return Ok(None) };
        let number = |entry: MetadataEntry| match entry {
            MetadataEntry::Integer(n) => Some(n as f64),
            MetadataEntry::Float(n) => Some(n),
            MetadataEntry::Bool(flag) => Some(f64::from(u8::from(flag))),
            _ => None,
        };
        let numbers: Option<Vec<f64>> = match scalar(array.element) {
            Some(_) => self.scalars(array).into_iter().map(number).collect(),
            None => None,
        };
        numbers.map(Some).ok_or_else(|| self.of_other_type(key, "a list of numbers"))
    }

    /// Whether the entry is there.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the entry is a list.
    pub(super) fn is_list(&self, key: &str) -> bool {
        matches!(self.entry(key), Some(MetadataEntry::Array(_)))
    }

    fn list(&self, key: &str) -> Result<Option<&ArrayEntry>, ModelError> {
        match self.entry(key) {
            None => Ok(None),
            Some(MetadataEntry::Array(array)) => Ok(Some(array)),
            Some(_) => Err(self.of_other_type(key, "a list")),
        }
    }

    fn scalars(&self, array: &ArrayEntry) -> Vec<MetadataEntry> {
        let Some(scalar) = scalar(array.element) else { return Vec::new() };
        self.bytes(&array.bytes).chunks_exact(scalar.width()).map(|bytes| scalar.read(bytes)).collect()
    }
}
