//! `POST completions`: text or token ids in, their continuation out, with ids where the server gives them.

use serde_json::{Value, json};

use crate::client::{Answers, AskProgress, Client};
use crate::request::JsonRequest;
use crate::{ClientError, GenerationOptions, read};

/// What is to be continued.
#[derive(Clone, Debug, PartialEq)]
pub enum CompletionPrompt {
    /// Text that the server tokenises.
    Text(String),
    /// Token ids, taken as they are.
    Ids(Vec<u32>),
}

/// A text to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// What is to be continued.
    pub prompt: CompletionPrompt,
    /// How.
    pub options: GenerationOptions,
    /// Asks for the continuation's token ids (vLLM 0.10.2 and later; others ignore or refuse it).
    pub return_token_ids: bool,
    /// Asks for the log-prob of each token.
    pub logprobs: bool,
    /// Tells equal requests apart: see [`JsonRequest::number`].
    pub number: u64,
}

/// A continuation.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionAnswer {
    /// Its text.
    pub text: String,
    /// Its token ids, where they were asked for and given.
    pub token_ids: Option<Vec<u32>>,
    /// The prompt's token ids as the server read it, where it says.
    pub prompt_token_ids: Option<Vec<u32>>,
    /// The log-prob of each of its tokens, where they were asked for and given: of which distribution is the server's matter.
    pub logprobs: Option<Vec<f64>>,
    /// `stop`, `length`, or what the server has besides.
    pub finish_reason: Option<String>,
    /// What ended it, where the server says: the stop text, or the stop id as a number.
    pub stop_reason: Option<Value>,
}

impl CompletionRequest {
    /// A request for text alone, number 0.
    pub fn new(prompt: CompletionPrompt, options: GenerationOptions) -> Self {
        Self { prompt, options, return_token_ids: false, logprobs: false, number: 0 }
    }

    fn json(&self) -> JsonRequest {
        let mut body = self.options.fields();
        let prompt = match &self.prompt {
            CompletionPrompt::Text(text) => json!(text),
            CompletionPrompt::Ids(ids) => json!(ids),
        };
        body.insert("prompt".to_owned(), prompt);
        if self.return_token_ids {
            body.insert("return_token_ids".to_owned(), true.into());
        }
        if self.logprobs {
            body.insert("logprobs".to_owned(), 1.into());
        }
        JsonRequest { path: "completions".to_owned(), body: body.into(), number: self.number }
    }
}

impl Client {
    /// Continuations, in the requests' order: as [`Client::ask`].
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn complete(
        &self,
        requests: &[CompletionRequest],
        progress: &mut AskProgress<'_>,
    ) -> Result<Answers<CompletionAnswer>, ClientError> {
        let bodies = requests.iter().map(CompletionRequest::json).collect();
        self.ask(bodies, |_, answer| completion_answer(answer), progress)
    }
}

fn completion_answer(answer: &Value) -> Result<CompletionAnswer, String> {
    let choice = read::choice(answer)?;
    let text =
        choice["text"].as_str().ok_or_else(|| read::unexpected("choices[0].text", "a text", answer))?;
    let logprobs =
        match choice["logprobs"]["token_logprobs"].as_array() {
            Some(values) => {
                Some(values.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>().ok_or_else(|| {
                    read::unexpected("choices[0].logprobs.token_logprobs", "numbers", answer)
                })?)
            }
            None => None,
        };
    Ok(CompletionAnswer {
        text: text.to_owned(),
        token_ids: read::ids(&choice["token_ids"]),
        prompt_token_ids: read::ids(&choice["prompt_token_ids"]),
        logprobs,
        finish_reason: read::finish_reason(choice),
        stop_reason: Some(choice["stop_reason"].clone()).filter(|reason| !reason.is_null()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_go_out_and_come_back() {
        let options = GenerationOptions { model: "m".into(), max_tokens: Some(4), ..Default::default() };
        let mut request = CompletionRequest::new(CompletionPrompt::Ids(vec![1, 2]), options);
        request.return_token_ids = true;
        request.logprobs = true;
        let wanted = json!({
            "model": "m", "max_tokens": 4, "prompt": [1, 2], "return_token_ids": true, "logprobs": 1,
        });
        assert_eq!(request.json().body, wanted);
        let answer = json!({"choices": [{
            "text": " so", "token_ids": [577, 2], "prompt_token_ids": [1, 2], "finish_reason": "stop", "stop_reason": 2,
            "logprobs": {"token_logprobs": [-1.5, -0.25]},
        }]});
        let read = completion_answer(&answer).unwrap();
        assert_eq!(read.token_ids.as_deref(), Some(&[577, 2][..]));
        assert_eq!(read.prompt_token_ids.as_deref(), Some(&[1, 2][..]));
        assert_eq!(read.logprobs.as_deref(), Some(&[-1.5, -0.25][..]));
        assert_eq!(read.stop_reason, Some(json!(2)));
        let plain = completion_answer(&json!({"choices": [{"text": "x", "token_ids": null}]})).unwrap();
        assert_eq!((plain.token_ids, plain.logprobs, plain.stop_reason), (None, None, None));
        assert!(completion_answer(&json!({"choices": [{"text": 1}]})).unwrap_err().contains("a text"));
    }
}
