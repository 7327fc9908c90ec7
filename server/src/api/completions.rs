//! `POST /v1/completions`: prompts as text or token ids, continued; `echo` with `logprobs` scores the prompt itself.

use serde_json::{Map, Value, json};

use super::answer::{ShownToken, logprob};
use super::fields::{BodyFields, wrong};
use super::form::{AnswerForm, EchoedPrompt, PromptTokens, TextPiece};
use super::generation::{RequestOptions, token_ids};
use super::token_text::TokenTexts;
use crate::error::{ApiError, ApiResult};
use crate::limits::ServerLimits;
use crate::worker::PolicyShape;

/// Tokens of a response where the request says nothing: OpenAI's.
const DEFAULT_TOKENS: usize = 16;

/// The form of a completion.
pub(crate) struct CompletionForm {
    echo: bool,
    /// `logprobs`: so many of the most likely tokens.
    logprobs: Option<usize>,
}

impl AnswerForm for CompletionForm {
    const PATH: &'static str = "/v1/completions";
    const ID: &'static str = "cmpl";
    const OBJECT: &'static str = "text_completion";
    const CHUNK: &'static str = "text_completion";
    const MAX_TOKENS: &'static [&'static str] = &["max_tokens"];

    fn read(fields: &mut BodyFields, policy: &PolicyShape) -> ApiResult<(Self, Vec<PromptTokens>)> {
        let special = fields.truth("add_special_tokens")?.unwrap_or(true);
        let echo = fields.is_set("echo")?;
        let logprobs = fields.integer("logprobs", 0..=ServerLimits::TOP_LOGPROBS)?;
        fields.refuse("suffix", |value| value.as_str() == Some(""))?;
        let prompt =
            fields.take("prompt").ok_or_else(|| ApiError::field("prompt", "prompt: it is absent"))?;
        let encode = |text: String| -> ApiResult<PromptTokens> {
            let ids = policy.codec.tokenizer.encode(&text, special)?;
            Ok(PromptTokens { ids, text: Some(text) })
        };
        const WANT: &str = "a string, a list of token ids, or a list of one of them";
        let prompts = match prompt {
            Value::String(text) => vec![encode(text)?],
            Value::Array(list) if list.is_empty() => {
                return Err(ApiError::field(
                    "prompt",
                    format!("prompt: expected {WANT}, found an empty list"),
                ));
            }
            Value::Array(list) if list[0].is_u64() => {
                let value = Value::Array(list);
                let ids = token_ids(&value).ok_or_else(|| wrong("prompt", WANT, &value))?;
                vec![PromptTokens { ids, text: None }]
            }
            Value::Array(list) => {
                let one = |value: Value| match value {
                    Value::String(text) => encode(text),
                    other => {
                        let ids = token_ids(&other).ok_or_else(|| wrong("prompt", WANT, &other))?;
                        Ok(PromptTokens { ids, text: None })
                    }
                };
                list.into_iter().map(one).collect::<ApiResult<_>>()?
            }
            other => return Err(wrong("prompt", WANT, &other)),
        };
        Ok((Self { echo, logprobs }, prompts))
    }

    fn complete(&self, options: &mut RequestOptions, limits: &ServerLimits) -> ApiResult<()> {
        let default = DEFAULT_TOKENS.min(limits.max_tokens.unwrap_or(DEFAULT_TOKENS));
        options.max_tokens.get_or_insert(default);
        Ok(())
    }

    fn top(&self) -> Option<usize> {
        self.logprobs
    }

    fn echoes(&self) -> bool {
        self.echo
    }

    fn choice(
        &self,
        prompt: Option<&EchoedPrompt<'_>>,
        piece: &TextPiece<'_>,
        texts: &TokenTexts<'_>,
    ) -> Value {
        let mut rows = LogProbRows::default();
        let mut text = String::new();
        if let Some(prompt) = prompt {
            text.push_str(prompt.text);
            rows.add_prompt(prompt, texts);
        }
        rows.add(piece.tokens, texts);
        text.push_str(&piece.text);
        json!({"text": text, "logprobs": self.logprobs.map(|top| rows.json(top))})
    }

    fn opening(&self, prompt: Option<&EchoedPrompt<'_>>, texts: &TokenTexts<'_>) -> Option<Value> {
        let prompt = prompt?;
        let mut rows = LogProbRows::default();
        rows.add_prompt(prompt, texts);
        Some(json!({"text": prompt.text, "logprobs": self.logprobs.map(|top| rows.json(top))}))
    }

    fn delta(&self, piece: &TextPiece<'_>, texts: &TokenTexts<'_>) -> Value {
        let mut rows = LogProbRows { offset: piece.offset, ..LogProbRows::default() };
        rows.add(piece.tokens, texts);
        json!({"text": piece.text, "logprobs": self.logprobs.map(|top| rows.json(top))})
    }
}

/// The four lists of a completion's `logprobs`.
#[derive(Default)]
struct LogProbRows {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
    offset: usize,
}

impl LogProbRows {
    /// The prompt's tokens; nothing stands before the first, so that it has no log-prob.
    fn add_prompt(&mut self, prompt: &EchoedPrompt<'_>, texts: &TokenTexts<'_>) {
        if let Some(&first) = prompt.ids.first() {
            self.place(texts.text(first));
            self.token_logprobs.push(Value::Null);
            self.top_logprobs.push(Value::Null);
        }
        self.add(prompt.tokens, texts);
    }

    fn add(&mut self, tokens: &[ShownToken], texts: &TokenTexts<'_>) {
        for ShownToken { token, top } in tokens {
            let text = texts.text(token.id);
            // Two tokens may have one text: the more likely one, which comes first, stays.
            let mut most_likely = Map::new();
            for other in top.iter().chain([token]) {
                let text = texts.text(other.id);
                if !most_likely.contains_key(&text) {
                    most_likely.insert(text, logprob(other.logprob));
                }
            }
            self.place(text);
            self.token_logprobs.push(logprob(token.logprob));
            self.top_logprobs.push(most_likely.into());
        }
    }

    fn place(&mut self, text: String) {
        self.text_offset.push(self.offset);
        self.offset += text.chars().count();
        self.tokens.push(text.into());
    }

    fn json(self, top: usize) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.token_logprobs,
            "top_logprobs": (top > 0).then_some(self.top_logprobs), "text_offset": self.text_offset,
        })
    }
}
