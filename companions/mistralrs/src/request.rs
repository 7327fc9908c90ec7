//! A line as a request.

use serde_json::Value;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Its number.
    pub id: u64,
    /// What is asked.
    pub call: Call,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Call {
    /// Which models there are.
    Models,
    /// A text, as ids or as text, to be continued.
    Complete(CompletionPrompt, Rules),
    /// A conversation, as pairs of role and content, to be answered.
    Chat(Vec<(String, String)>, Rules),
}

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum CompletionPrompt {
    /// Token ids.
    Ids(Vec<u32>),
    /// Text.
    Text(String),
}

/// How it is continued.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// Share of probability that is kept.
    pub top_p: f64,
    /// Tokens that are kept; 0: all.
    pub top_k: usize,
    /// Least probability, as part of the greatest.
    pub min_p: f64,
    /// Tokens at most.
    pub max_tokens: usize,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Ids that end it, beside the model's own.
    pub stop_token_ids: Vec<u32>,
    /// What its draws follow from; `None`: from nothing that repeats.
    pub seed: Option<u64>,
    /// Whether log-probs are wanted.
    pub logprobs: bool,
    /// Log-probs of so many of the likeliest tokens at each place.
    pub top_logprobs: usize,
}

/// A line that is no request.
#[derive(Clone, Debug, PartialEq)]
pub struct UnreadableRequest {
    /// Its number, where it has one.
    pub id: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

/// Fields that are known. Any other would be asked for in vain, and is refused.
const KNOWN: [&str; 15] = [
    "model",
    "messages",
    "prompt",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "max_tokens",
    "stop",
    "stop_token_ids",
    "seed",
    "logprobs",
    "top_logprobs",
    "return_token_ids",
    "n",
];

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(line: &str) -> Result<Self, UnreadableRequest> {
        let of_line = |problem: String| UnreadableRequest { id: None, problem };
        let value: Value =
            serde_json::from_str(line).map_err(|error| of_line(format!("no JSON: {error}")))?;
        let id =
            value["id"].as_u64().ok_or_else(|| of_line("a request without a number \"id\"".to_owned()))?;
        let call = call(&value).map_err(|problem| UnreadableRequest { id: Some(id), problem })?;
        Ok(Self { id, call })
    }
}

fn call(value: &Value) -> Result<Call, String> {
    let body = &value["body"];
    let path = value["path"].as_str().unwrap_or_default();
    if path == "models" {
        return Ok(Call::Models);
    }
    let fields = body.as_object().ok_or("a request without a body")?;
    if let Some(unknown) = fields.keys().find(|name| !KNOWN.contains(&name.as_str())) {
        return Err(format!("{unknown:?} is not known here"));
    }
    if body["n"].as_u64().is_some_and(|count| count != 1) {
        return Err("n: 1 is wanted; ask again for a further answer".to_owned());
    }
    match path {
        "completions" => {
            let prompt = match &body["prompt"] {
                Value::String(text) => CompletionPrompt::Text(text.clone()),
                prompt => CompletionPrompt::Ids(ids(prompt).ok_or("prompt: a text or token ids are wanted")?),
            };
            Ok(Call::Complete(prompt, rules(body)?))
        }
        "chat/completions" => {
            let turn = |turn: &Value| {
                Some((turn["role"].as_str()?.to_owned(), turn["content"].as_str()?.to_owned()))
            };
            let messages = body["messages"].as_array().filter(|turns| !turns.is_empty());
            let messages: Option<Vec<_>> = messages.and_then(|turns| turns.iter().map(turn).collect());
            Ok(Call::Chat(
                messages.ok_or("messages: a list with role and content as texts is wanted")?,
                rules(body)?,
            ))
        }
        _ => Err(format!("path {path:?}: models, completions or chat/completions is wanted")),
    }
}

fn rules(body: &Value) -> Result<Rules, String> {
    let number = |name: &str, default: f64| match &body[name] {
        Value::Null => Ok(default),
        value => {
            value.as_f64().filter(|value| value.is_finite()).ok_or(format!("{name}: a number is wanted"))
        }
    };
    let count = |name: &str, default: usize| match &body[name] {
        Value::Null => Ok(default),
        value => value
            .as_u64()
            .and_then(|value| usize::try_from(value).ok())
            .ok_or(format!("{name}: a whole number from 0 is wanted")),
    };
    let stop = match &body["stop"] {
        Value::Null => Some(Vec::new()),
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| Some(text.as_str()?.to_owned())).collect(),
        _ => None,
    };
    let stop_token_ids = match &body["stop_token_ids"] {
        Value::Null => Some(Vec::new()),
        value => ids(value),
    };
    // completions: a number of the likeliest tokens; chat/completions: true or false.
    let logprobs = !matches!(body["logprobs"], Value::Null | Value::Bool(false));
    Ok(Rules {
        temperature: number("temperature", 1.0)?.max(0.0),
        top_p: number("top_p", 1.0)?,
        top_k: count("top_k", 0)?,
        min_p: number("min_p", 0.0)?,
        max_tokens: count("max_tokens", 4096)?.max(1),
        stop: stop.ok_or("stop: texts are wanted")?,
        stop_token_ids: stop_token_ids.ok_or("stop_token_ids: ids are wanted")?,
        seed: body["seed"].as_u64(),
        logprobs,
        top_logprobs: count("top_logprobs", 0)?,
    })
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_wrong_ones_refused_under_their_number() {
        let line = r#"{"id": 7, "path": "completions", "body": {"model": "m", "prompt": [1, 2], "temperature": 0.5, "max_tokens": 9,
            "stop_token_ids": [2], "seed": 5, "logprobs": 1, "return_token_ids": true}}"#;
        let read = Request::read(line).unwrap();
        assert_eq!(read.id, 7);
        let Call::Complete(CompletionPrompt::Ids(ids), rules) = read.call else { panic!() };
        assert_eq!((ids, rules.temperature, rules.max_tokens, rules.seed), (vec![1, 2], 0.5, 9, Some(5)));
        assert!(rules.logprobs && rules.stop_token_ids == [2]);
        let chat = r#"{"id": 1, "path": "chat/completions", "body": {"messages": [{"role": "user", "content": "Hi"}], "top_logprobs": 3}}"#;
        let Call::Chat(turns, rules) = Request::read(chat).unwrap().call else { panic!() };
        assert_eq!((turns, rules.top_logprobs), (vec![("user".to_owned(), "Hi".to_owned())], 3));
        assert_eq!(Request::read(r#"{"id": 2, "path": "models"}"#).unwrap().call, Call::Models);
        for (line, id, words) in [
            ("nonsense", None, "no JSON"),
            ("{}", None, "without a number"),
            (r#"{"id": 3, "path": "completions"}"#, Some(3), "without a body"),
            (r#"{"id": 3, "path": "completions", "body": {"prompt": 4}}"#, Some(3), "token ids"),
            (r#"{"id": 3, "path": "embeddings", "body": {}}"#, Some(3), "is wanted"),
            (
                r#"{"id": 3, "path": "completions", "body": {"prompt": "a", "best_of": 2}}"#,
                Some(3),
                "not known",
            ),
            (r#"{"id": 3, "path": "completions", "body": {"prompt": "a", "n": 2}}"#, Some(3), "n: 1"),
            (
                r#"{"id": 3, "path": "chat/completions", "body": {"messages": []}}"#,
                Some(3),
                "role and content",
            ),
        ] {
            let unreadable = Request::read(line).unwrap_err();
            assert!(unreadable.id == id && unreadable.problem.contains(words), "{line}: {unreadable:?}");
        }
    }
}
