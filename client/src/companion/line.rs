//! A line that a companion wrote, as what it means.

use selfplay_records::shown::quoted;
use serde_json::Value;

/// The protocol that is spoken here.
pub(super) const PROTOCOL: u64 = 1;

/// What a line says.
#[derive(Debug, PartialEq)]
pub(super) enum CompanionLine {
    /// The model is loaded.
    Ready,
    /// It speaks another protocol.
    OtherProtocol(String),
    /// A request is being worked on.
    Progress,
    /// The answer to a request.
    Answer { id: u64, answer: Value },
    /// Why a request has none.
    Refusal { id: u64, message: String, is_temporary: bool },
    /// Why the model cannot be loaded.
    Failure(String),
    /// None of these.
    Malformed(String),
}

impl CompanionLine {
    /// Reads a line.
    pub(super) fn read(line: &[u8]) -> Self {
        let malformed = || Self::Malformed(quoted(&String::from_utf8_lossy(line)));
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(line) else { return malformed() };
        if let Some(ready) = fields.get("ready") {
            let protocol = &ready["protocol"];
            return if *protocol == PROTOCOL {
                Self::Ready
            } else {
                Self::OtherProtocol(protocol.to_string())
            };
        }
        let message = |error: &Value| error["message"].as_str().map(str::to_owned);
        let error = fields.get("error");
        match fields.get("id").map(Value::as_u64) {
            Some(Some(id)) => {
                if let Some(message) = error.and_then(message) {
                    let is_temporary = error.is_some_and(|error| error["temporary"] == true);
                    return Self::Refusal { id, message, is_temporary };
                }
                match fields.remove("answer") {
                    Some(answer) => Self::Answer { id, answer },
                    None if fields.contains_key("progress") => Self::Progress,
                    None => malformed(),
                }
            }
            Some(None) => malformed(),
            None => error.and_then(message).map_or_else(malformed, Self::Failure),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let read = |value: Value| CompanionLine::read(value.to_string().as_bytes());
        assert_eq!(read(json!({"ready": {"protocol": 1, "program": "x"}})), CompanionLine::Ready);
        assert_eq!(read(json!({"ready": {"protocol": 2}})), CompanionLine::OtherProtocol("2".into()));
        assert_eq!(read(json!({"id": 3, "progress": {"completion_tokens": 1}})), CompanionLine::Progress);
        let answer = json!({"choices": []});
        assert_eq!(read(json!({"id": 3, "answer": answer})), CompanionLine::Answer { id: 3, answer });
        let refusal = CompanionLine::Refusal { id: 4, message: "too long".into(), is_temporary: false };
        assert_eq!(read(json!({"id": 4, "error": {"message": "too long"}})), refusal);
        let busy = read(json!({"id": 4, "error": {"message": "busy", "temporary": true}}));
        assert!(matches!(busy, CompanionLine::Refusal { is_temporary: true, .. }), "{busy:?}");
        assert_eq!(read(json!({"error": {"message": "no file"}})), CompanionLine::Failure("no file".into()));
        for wrong in
            ["", "loading 3/7", "[1]", "{\"id\": -1, \"answer\": 1}", "{\"id\": 1}", "{\"id\": 1, \"answer\""]
        {
            let read = CompanionLine::read(wrong.as_bytes());
            assert!(matches!(read, CompanionLine::Malformed(_)), "{wrong}: {read:?}");
        }
    }
}
