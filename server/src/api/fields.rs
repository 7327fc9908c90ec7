//! The fields of a request's body. Each is read by its type; what is left over at the end is refused, so that a field that does
//! nothing is not taken for one that does.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::{ApiError, ApiResult};

/// BodyFields that have not been read yet. Null counts as absent.
pub(crate) struct BodyFields(Map<String, Value>);

impl BodyFields {
    /// The object in a body.
    ///
    /// # Errors
    /// What is no JSON, or no object.
    pub(crate) fn parse(body: &[u8]) -> ApiResult<Self> {
        let refuse = |what: String| ApiError::new(axum::http::StatusCode::BAD_REQUEST, what);
        match serde_json::from_slice(body) {
            Ok(Value::Object(mut map)) => {
                map.retain(|_, value| !value.is_null());
                Ok(Self(map))
            }
            Ok(_) => Err(refuse("the body is no JSON object".to_owned())),
            Err(error) => Err(refuse(format!("the body is not JSON: {error}"))),
        }
    }

    /// A field as it is.
    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// A text.
    pub(crate) fn text(&mut self, name: &str) -> ApiResult<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(wrong(name, "a string", &other)),
        }
    }

    /// True or false; false where it is absent.
    pub(crate) fn is_set(&mut self, name: &str) -> ApiResult<bool> {
        Ok(self.truth(name)?.unwrap_or(false))
    }

    /// True or false.
    pub(crate) fn truth(&mut self, name: &str) -> ApiResult<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(truth)),
            Some(other) => Err(wrong(name, "true or false", &other)),
        }
    }

    /// An integer within bounds.
    pub(crate) fn integer(&mut self, name: &str, range: RangeInclusive<usize>) -> ApiResult<Option<usize>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = value.as_u64().and_then(|number| usize::try_from(number).ok());
        match found.filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => {
                let want = format!("an integer from {} to {}", range.start(), range.end());
                Err(wrong(name, &want, &value))
            }
        }
    }

    /// A finite number.
    pub(crate) fn number(&mut self, name: &str) -> ApiResult<Option<f64>> {
        match self.take(name) {
            None => Ok(None),
            Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
                Some(number) => Ok(Some(number)),
                None => Err(wrong(name, "a number", &value)),
            },
        }
    }

    /// Refuses a field that we don't have, unless its value changes nothing.
    pub(crate) fn refuse(&mut self, name: &str, is_neutral: impl Fn(&Value) -> bool) -> ApiResult<()> {
        match self.take(name) {
            Some(value) if !is_neutral(&value) => {
                Err(ApiError::field(name, format!("{name}: {} is not supported", short(&value))))
            }
            _ => Ok(()),
        }
    }

    /// Drops fields that are for a service's own books and change no answer.
    pub(crate) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.0.remove(*name);
        }
    }

    /// That nothing is left.
    pub(crate) fn finish(self) -> ApiResult<()> {
        match self.0.keys().next() {
            None => Ok(()),
            Some(name) => Err(ApiError::field(name, format!("{name:?}: there is no such field"))),
        }
    }
}

/// A field of the wrong type or size.
pub(crate) fn wrong(name: &str, want: &str, found: &Value) -> ApiError {
    ApiError::field(name, format!("{name}: expected {want}, found {}", short(found)))
}

/// A value's beginning, for a message.
fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string(),
    };
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_over_is_refused_and_null_is_absent() {
        let mut fields =
            BodyFields::parse(br#"{"n": 2, "user": "me", "seed": null, "tempreature": 1}"#).unwrap();
        assert_eq!(fields.integer("n", 1..=5).unwrap(), Some(2));
        assert_eq!(fields.integer("seed", 1..=5).unwrap(), None);
        fields.ignore(&["user"]);
        assert_eq!(fields.finish().unwrap_err().field.as_deref(), Some("tempreature"));
    }

    #[test]
    fn a_wrong_type_is_told_with_what_would_be_right() {
        for (body, told) in [
            (&b"{\"n\": \"2\"}"[..], "n: expected an integer from 1 to 5, found \"2\""),
            (b"{\"n\": 1.5}", "found 1.5"),
            (b"{\"n\": -1}", "found -1"),
            (b"{\"n\": 6}", "found 6"),
            (b"{\"n\": [1]}", "found a list"),
        ] {
            let error = BodyFields::parse(body).unwrap().integer("n", 1..=5).unwrap_err();
            assert!(error.message.contains(told), "{}", error.message);
            assert_eq!(error.status, 400);
        }
        assert!(BodyFields::parse(b"{\"x\": \"\xff\"}").is_err(), "no UTF-8");
        assert!(BodyFields::parse("[".repeat(100_000).as_bytes()).is_err(), "too deep");
        assert!(BodyFields::parse(b"[]").is_err());
        let penalty =
            BodyFields::parse(b"{\"presence_penalty\": 0.0}").unwrap().refuse("presence_penalty", is_zero);
        assert!(penalty.is_ok());
        let penalty =
            BodyFields::parse(b"{\"presence_penalty\": 0.5}").unwrap().refuse("presence_penalty", is_zero);
        assert!(penalty.unwrap_err().message.contains("0.5 is not supported"));
    }

    fn is_zero(value: &Value) -> bool {
        value.as_f64() == Some(0.0)
    }
}
