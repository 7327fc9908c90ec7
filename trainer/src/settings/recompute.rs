//! `train.recompute`: what a backward pass computes again in the place of keeping it.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How much of a forward pass its backward computes again: `"auto"`, `true` or `false`. The gradients have the same bits
/// whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompute {
    /// As little as the free memory allows.
    #[default]
    Auto,
    /// All but each block's input: the least memory.
    Always,
    /// Nothing: the least time.
    Never,
}

impl fmt::Display for Recompute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "true",
            Self::Never => "false",
        })
    }
}

/// A text that is no rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, true or false")]
pub struct BadRecompute;

impl FromStr for Recompute {
    type Err = BadRecompute;

    fn from_str(text: &str) -> Result<Self, BadRecompute> {
        match text {
            "auto" => Ok(Self::Auto),
            "true" => Ok(Self::Always),
            "false" => Ok(Self::Never),
            _ => Err(BadRecompute),
        }
    }
}

impl Serialize for Recompute {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Always => serializer.serialize_bool(true),
            Self::Never => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Recompute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RecomputeVisitor)
    }
}

struct RecomputeVisitor;

impl serde::de::Visitor<'_> for RecomputeVisitor {
    type Value = Recompute;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\", true or false")
    }

    fn visit_bool<E: serde::de::Error>(self, always: bool) -> Result<Recompute, E> {
        Ok(if always { Recompute::Always } else { Recompute::Never })
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Recompute, E> {
        match text {
            "auto" => Ok(Recompute::Auto),
            _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
        }
    }
}

impl JsonSchema for Recompute {
    fn schema_name() -> Cow<'static, str> {
        "Recompute".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string", "const": "auto"}, {"type": "boolean"}]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_values_are_read_and_written() {
        for (json, rule) in
            [("\"auto\"", Recompute::Auto), ("true", Recompute::Always), ("false", Recompute::Never)]
        {
            assert_eq!(serde_json::from_str::<Recompute>(json).unwrap(), rule);
            assert_eq!(serde_json::to_string(&rule).unwrap(), json);
        }
        for json in ["\"Auto\"", "\"true\"", "1", "null", "[]"] {
            let error = serde_json::from_str::<Recompute>(json).unwrap_err().to_string();
            assert!(error.contains("\"auto\", true or false"), "{error}");
        }
    }
}
