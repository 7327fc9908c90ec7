//! A row of candidates as the line that a program reads.

use selfplay_records::Candidates;
use serde_json::{Map, Value, json};

/// One line of JSON with its end: the prompt, the texts of the responses, and the other fields of the prompt's row.
pub(super) fn question(row: &Candidates) -> Vec<u8> {
    // JSON has no line ends of its own: those of texts are escaped.
    let mut line = Value::Object(question_fields(row)).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// The fields of that object.
pub(crate) fn question_fields(row: &Candidates) -> Map<String, Value> {
    let prompt = &row.prompt;
    let mut fields = Map::new();
    fields.insert("prompt_id".to_owned(), prompt.prompt_id.clone().into());
    if let Some(text) = &prompt.prompt {
        fields.insert("prompt".to_owned(), text.clone().into());
    }
    if let Some(messages) = &prompt.messages {
        let turns: Vec<Value> =
            messages.iter().map(|turn| json!({"role": turn.role, "content": turn.content})).collect();
        fields.insert("messages".to_owned(), turns.into());
    }
    let texts: Vec<Value> = row.responses.iter().map(|response| response.text.clone().into()).collect();
    fields.insert("responses".to_owned(), texts.into());
    for (name, value) in prompt.others.iter().flat_map(|others| others.iter()) {
        fields.entry(name.clone()).or_insert_with(|| value.clone());
    }
    fields
}
