//! Answers of OpenAI's interface as fields. A text that says what is wrong makes the request be tried again.

use selfplay_records::shown::quoted;
use serde_json::Value;

use crate::ServedModel;

/// The first choice of an answer.
pub(crate) fn choice(answer: &Value) -> Result<&Value, String> {
    let choice = &answer["choices"][0];
    if choice.is_object() { Ok(choice) } else { Err(unexpected("choices[0]", "an object", answer)) }
}

/// Why the answer ended: `stop`, `length`, or what a server has besides.
pub(crate) fn finish_reason(choice: &Value) -> Option<String> {
    choice["finish_reason"].as_str().map(str::to_owned)
}

/// A count of the answer's `usage`; 0 where there is none.
pub(crate) fn token_count(answer: &Value, name: &str) -> u64 {
    answer["usage"][name].as_u64().unwrap_or(0)
}

/// Token ids.
pub(crate) fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

/// The models in `{"data": [{"id": …, "root": …}]}`.
pub(crate) fn models(answer: &Value) -> Result<Vec<ServedModel>, String> {
    let served = |model: &Value| {
        let name = model["id"].as_str()?.to_owned();
        Some(ServedModel { name, root: model["root"].as_str().map(str::to_owned) })
    };
    let models = answer["data"].as_array().and_then(|models| models.iter().map(served).collect());
    models.ok_or_else(|| unexpected("data", "a list of models", answer))
}

pub(crate) fn unexpected(field: &str, wanted: &str, answer: &Value) -> String {
    format!("the answer's \"{field}\" is not {wanted}: {}", quoted(&answer.to_string()))
}
