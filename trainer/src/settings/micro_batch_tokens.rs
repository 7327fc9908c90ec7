//! `train.micro_batch_tokens`: how many tokens a forward and backward pass has.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Tokens per forward and backward pass: a number, or `"auto"`. The gradients are the same up to rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MicroBatchTokens {
    /// The fastest number that fits the device, chosen when a training begins.
    Auto,
    /// So many at most; an example that is longer has a pass of its own.
    Most(usize),
}

impl MicroBatchTokens {
    /// The contract's default.
    const STANDARD: usize = 16_384;

    /// The number; with `auto` the default's. For passes without a backward, which take little memory whatever it is.
    pub fn or_standard(self) -> usize {
        self.number().unwrap_or(Self::STANDARD)
    }

    /// The number; `None` with `auto`.
    pub fn number(self) -> Option<usize> {
        match self {
            Self::Auto => None,
            Self::Most(tokens) => Some(tokens),
        }
    }
}

impl Default for MicroBatchTokens {
    fn default() -> Self {
        Self::Most(Self::STANDARD)
    }
}

impl From<usize> for MicroBatchTokens {
    fn from(tokens: usize) -> Self {
        Self::Most(tokens)
    }
}

impl fmt::Display for MicroBatchTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Most(tokens) => tokens.fmt(f),
        }
    }
}

impl Serialize for MicroBatchTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Most(tokens) => tokens.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MicroBatchTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MicroBatchTokensVisitor)
    }
}

struct MicroBatchTokensVisitor;

impl serde::de::Visitor<'_> for MicroBatchTokensVisitor {
    type Value = MicroBatchTokens;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a whole number of tokens")
    }

    fn visit_u64<E: serde::de::Error>(self, tokens: u64) -> Result<MicroBatchTokens, E> {
        let unexpected = serde::de::Unexpected::Unsigned(tokens);
        let tokens = usize::try_from(tokens).map_err(|_| E::invalid_value(unexpected, &self))?;
        Ok(MicroBatchTokens::Most(tokens))
    }

    fn visit_i64<E: serde::de::Error>(self, tokens: i64) -> Result<MicroBatchTokens, E> {
        match u64::try_from(tokens) {
            Ok(tokens) => self.visit_u64(tokens),
            Err(_) => Err(E::invalid_value(serde::de::Unexpected::Signed(tokens), &self)),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MicroBatchTokens, E> {
        match text {
            "auto" => Ok(MicroBatchTokens::Auto),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for MicroBatchTokens {
    fn schema_name() -> Cow<'static, str> {
        "MicroBatchTokens".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string", "const": "auto"}, {"type": "integer", "minimum": 1}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_auto_are_read_and_written() {
        for (json, tokens) in [
            ("\"auto\"", MicroBatchTokens::Auto),
            ("16384", MicroBatchTokens::default()),
            ("7", MicroBatchTokens::Most(7)),
        ] {
            assert_eq!(serde_json::from_str::<MicroBatchTokens>(json).unwrap(), tokens);
            assert_eq!(serde_json::to_string(&tokens).unwrap(), json);
        }
        for json in ["\"Auto\"", "\"16384\"", "-1", "1.5", "true", "null"] {
            let error = serde_json::from_str::<MicroBatchTokens>(json).unwrap_err().to_string();
            assert!(error.contains("\"auto\" or a whole number of tokens"), "{error}");
        }
        assert_eq!(
            (MicroBatchTokens::Auto.or_standard(), MicroBatchTokens::Most(5).or_standard()),
            (16_384, 5)
        );
    }
}
