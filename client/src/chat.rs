//! `POST chat/completions`: a conversation in, the assistant's turn out.

use selfplay_records::Message;
use serde_json::{Value, json};

use crate::client::{Answers, AskProgress, Client};
use crate::request::JsonRequest;
use crate::{ClientError, GenerationOptions, read};

/// A conversation to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// The turns before the answer.
    pub messages: Vec<Message>,
    /// How it is answered.
    pub options: GenerationOptions,
    /// Log-probs of this many of the likeliest tokens at each place of the answer; 0: of the answer's own tokens alone; `None`: none.
    pub top_logprobs: Option<usize>,
    /// Tells equal requests apart: see [`JsonRequest::number`].
    pub number: u64,
}

/// A token and its log-prob, in nats.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatToken {
    /// The token's text.
    pub token: String,
    /// Its log-prob.
    pub logprob: f64,
    /// The likeliest tokens at this place with theirs, as many as were asked for.
    pub top: Vec<(String, f64)>,
}

/// An assistant's turn.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatAnswer {
    /// Its text; empty where the server answers with none.
    pub text: String,
    /// `stop`, `length`, or what the server has besides.
    pub finish_reason: Option<String>,
    /// Each of its tokens, where log-probs were asked for and given.
    pub tokens: Option<Vec<ChatToken>>,
    /// Tokens of the conversation, as the server counts them; 0 where it doesn't.
    pub prompt_tokens: u64,
    /// Tokens of this turn, as the server counts them; 0 where it doesn't.
    pub completion_tokens: u64,
}

impl ChatRequest {
    /// A request without log-probs, number 0.
    pub fn new(messages: Vec<Message>, options: GenerationOptions) -> Self {
        Self { messages, options, top_logprobs: None, number: 0 }
    }

    fn json(&self) -> JsonRequest {
        let mut body = self.options.fields();
        body.insert("messages".to_owned(), json!(self.messages));
        if let Some(top) = self.top_logprobs {
            body.insert("logprobs".to_owned(), true.into());
            if top > 0 {
                body.insert("top_logprobs".to_owned(), top.into());
            }
        }
        JsonRequest { path: "chat/completions".to_owned(), body: body.into(), number: self.number }
    }
}

impl Client {
    /// Answers to conversations, in their order: as [`Client::ask`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn chat(
        &self,
        requests: &[ChatRequest],
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<ChatAnswer>, ClientError> {
        self.ask(requests.iter().map(ChatRequest::json).collect(), |_, answer| chat_answer(answer), progress)
    }

    /// As [`Client::chat`], with the server's words in the place of the answers to conversations that it refuses: as
    /// [`Client::ask_each`].
    ///
    /// # Errors
    /// As [`Client::ask_each`].
    pub fn chat_each(
        &self,
        requests: &[ChatRequest],
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<Result<ChatAnswer, String>>, ClientError> {
        let requests = requests.iter().map(ChatRequest::json).collect();
        self.ask_each(requests, |_, answer| chat_answer(answer), progress)
    }
}

fn chat_answer(answer: &Value) -> Result<ChatAnswer, String> {
    let choice = read::choice(answer)?;
    let text = match &choice["message"]["content"] {
        Value::String(text) => text.clone(),
        // A refusal, a call of a tool, an empty turn.
        Value::Null if choice["message"].is_object() => String::new(),
        _ => return Err(read::unexpected("choices[0].message.content", "a text", answer)),
    };
    let tokens =
        match choice["logprobs"]["content"].as_array() {
            Some(tokens) => {
                Some(tokens.iter().map(token_choice).collect::<Option<_>>().ok_or_else(|| {
                    read::unexpected("choices[0].logprobs", "tokens with log-probs", answer)
                })?)
            }
            None => None,
        };
    Ok(ChatAnswer {
        text,
        finish_reason: read::finish_reason(choice),
        tokens,
        prompt_tokens: read::token_count(answer, "prompt_tokens"),
        completion_tokens: read::token_count(answer, "completion_tokens"),
    })
}

fn token_choice(value: &Value) -> Option<ChatToken> {
    let pair = |value: &Value| Some((value["token"].as_str()?.to_owned(), value["logprob"].as_f64()?));
    let (token, logprob) = pair(value)?;
    let top = match value["top_logprobs"].as_array() {
        Some(top) => top.iter().map(pair).collect::<Option<_>>()?,
        None => Vec::new(),
    };
    Some(ChatToken { token, logprob, top })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_what_was_set_and_nothing_else() {
        let mut request = ChatRequest::new(
            vec![Message::user("Hi")],
            GenerationOptions { model: "m".into(), ..Default::default() },
        );
        let user = json!([{"role": "user", "content": "Hi"}]);
        assert_eq!(request.json().body, json!({"model": "m", "messages": user}));
        request.top_logprobs = Some(5);
        request.options.temperature = Some(0.0);
        request.options.stop = vec!["\n".into()];
        request.options.extra.insert("response_format".into(), json!({"type": "json_object"}));
        let wanted = json!({
            "model": "m", "temperature": 0.0, "stop": ["\n"], "response_format": {"type": "json_object"},
            "messages": user, "logprobs": true, "top_logprobs": 5,
        });
        assert_eq!(request.json().body, wanted);
    }

    #[test]
    fn an_answer_is_read_and_another_shape_is_refused() {
        let answer = json!({"choices": [{
            "message": {"role": "assistant", "content": "A"}, "finish_reason": "stop",
            "logprobs": {"content": [{"token": "A", "logprob": -0.1, "top_logprobs": [
                {"token": "A", "logprob": -0.1}, {"token": "B", "logprob": -2.4}]}]},
        }], "usage": {"prompt_tokens": 9, "completion_tokens": 1}});
        let read = chat_answer(&answer).unwrap();
        assert_eq!((read.text.as_str(), read.finish_reason.as_deref()), ("A", Some("stop")));
        assert_eq!((read.prompt_tokens, read.completion_tokens), (9, 1));
        let top = vec![("A".to_owned(), -0.1), ("B".to_owned(), -2.4)];
        assert_eq!(read.tokens.unwrap(), [ChatToken { token: "A".into(), logprob: -0.1, top }]);
        let empty = chat_answer(&json!({"choices": [{"message": {"content": null}}]})).unwrap();
        assert_eq!((empty.text.as_str(), empty.finish_reason, empty.tokens), ("", None, None));
        for wrong in [
            json!({}),
            json!([]),
            json!({"choices": []}),
            json!({"choices": [{}]}),
            json!({"choices": [{"message": {"content": 3}}]}),
            json!({"choices": [{"message": {"content": "A"}, "logprobs": {"content": [{"token": "A"}]}}]}),
        ] {
            assert!(chat_answer(&wrong).unwrap_err().contains("choices[0]"), "{wrong}");
        }
    }
}
