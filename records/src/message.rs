//! One turn of a conversation.

use serde::de::{self, MapAccess, Unexpected, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// One turn of a conversation, in the layout that chat templates take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// `system`, `user` or `assistant`; a template may know others.
    pub role: String,
    /// The turn's text: parts in the order given, a line each; empty where a turn consists of calls of tools.
    pub content: String,
    /// The turn as its row has it, without nulls, where that is more than a role and a text: text in parts, calls of tools, a
    /// name. Chat templates see this form.
    given: Option<Box<Map<String, Value>>>,
}

impl Message {
    /// The field of typed columns that holds a turn's other fields as JSON text.
    pub(crate) const GIVEN: &str = "given";

    /// A turn of the given role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), given: None }
    }

    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// An assistant's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Whether it is more than a role and a text.
    pub fn has_more(&self) -> bool {
        self.given.is_some()
    }

    /// Whether its text is given in parts.
    pub fn has_parts(&self) -> bool {
        self.given.as_ref().is_some_and(|given| given.get("content").is_some_and(Value::is_array))
    }

    /// The same turn with its parts as one text.
    pub fn with_joined_parts(&self) -> Self {
        let mut message = self.clone();
        if let Some(given) = message.given.as_mut().filter(|_| self.has_parts()) {
            given.insert("content".to_owned(), Value::from(self.content.as_str()));
        }
        message
    }

    /// From the fields of a row's object; nulls but the content's are gone.
    fn from_fields<E: de::Error>(mut fields: Map<String, Value>) -> Result<Self, E> {
        if let Some(Value::String(given)) = fields.remove(Self::GIVEN) {
            fields = serde_json::from_str(&given).map_err(E::custom)?;
        }
        let role = match fields.get("role") {
            Some(Value::String(role)) => role.clone(),
            Some(other) => return Err(E::invalid_type(unexpected(other), &"a string")),
            None => return Err(E::missing_field("role")),
        };
        let calls = fields.contains_key("tool_calls");
        let content = match fields.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => joined(parts)?,
            Some(Value::Null) if calls => String::new(),
            None if calls => String::new(),
            Some(other) => return Err(E::invalid_type(unexpected(other), &"a string")),
            None => return Err(E::missing_field("content")),
        };
        let plain = fields.len() == 2 && fields["content"].is_string();
        Ok(Self { role, content, given: (!plain).then(|| Box::new(fields)) })
    }
}

/// The text of `[{"type": "text", "text": …}]`: a line for each part.
fn joined<E: de::Error>(parts: &[Value]) -> Result<String, E> {
    let text = |part: &Value| match (part.get("type"), part.get("text")) {
        (Some(Value::String(kind)), Some(Value::String(text))) if kind == "text" => Some(text.clone()),
        _ => None,
    };
    let texts: Option<Vec<String>> = parts.iter().map(text).collect();
    let texts = texts.ok_or_else(|| {
        E::invalid_value(
            Unexpected::Other("a part that is no text"),
            &"a string, or parts that are all {\"type\": \"text\", \"text\": …}: images and sound are not supported",
        )
    })?;
    Ok(texts.join("\n"))
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(value) => Unexpected::Bool(*value),
        Value::Number(_) => Unexpected::Other("number"),
        Value::String(value) => Unexpected::Str(value),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

impl Serialize for Message {
    /// As given in JSON; in typed columns the text, and all that is given as JSON beside it where it is more.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.given {
            Some(given) if serializer.is_human_readable() => given.serialize(serializer),
            given => {
                let mut map = serializer.serialize_map(None)?;
                map.serialize_entry("role", &self.role)?;
                map.serialize_entry("content", &self.content)?;
                if let Some(given) = given {
                    map.serialize_entry(Self::GIVEN, &Value::Object(given.as_ref().clone()).to_string())?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MessageFields;
        impl<'de> Visitor<'de> for MessageFields {
            type Value = Message;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("struct Message")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Message, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if !value.is_null() || name == "content" {
                        fields.insert(name, value);
                    }
                }
                Message::from_fields(fields)
            }
        }
        deserializer.deserialize_map(MessageFields)
    }
}

#[cfg(test)]
mod tests;
