//! A number or the word `off`, both ways: TOML has no null, and the resolved recipe should show the value.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrWord<T> {
    Number(T),
    Word(String),
}

pub(super) fn serialize<T: Serialize, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match value {
        Some(number) => number.serialize(serializer),
        None => serializer.serialize_str("off"),
    }
}

pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let expected = || D::Error::custom("expected a number that is not negative, or \"off\"");
    match NumberOrWord::deserialize(deserializer).map_err(|_| expected())? {
        NumberOrWord::Number(number) => Ok(Some(number)),
        NumberOrWord::Word(word) if word == "off" => Ok(None),
        NumberOrWord::Word(_) => Err(expected()),
    }
}
