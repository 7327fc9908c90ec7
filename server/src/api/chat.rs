//! `POST /v1/chat/completions`: a conversation through the model's own chat template, and its answer.

use selfplay_records::Message;
use serde_json::{Value, json};

use super::answer::{ShownToken, logprob};
use super::fields::BodyFields;
use super::form::{AnswerForm, EchoedPrompt, PromptTokens, TextPiece};
use super::generation::RequestOptions;
use super::token_text::TokenTexts;
use crate::error::{ApiError, ApiResult};
use crate::limits::ServerLimits;
use crate::worker::PolicyShape;

/// The form of a chat completion.
pub(crate) struct ChatForm {
    /// `top_logprobs`, where `logprobs` is set.
    top: Option<usize>,
}

impl AnswerForm for ChatForm {
    const PATH: &'static str = "/v1/chat/completions";
    const ID: &'static str = "chatcmpl";
    const OBJECT: &'static str = "chat.completion";
    const CHUNK: &'static str = "chat.completion.chunk";
    const MAX_TOKENS: &'static [&'static str] = &["max_completion_tokens", "max_tokens"];

    fn read(fields: &mut BodyFields, policy: &PolicyShape) -> ApiResult<(Self, Vec<PromptTokens>)> {
        let messages =
            fields.take("messages").ok_or_else(|| ApiError::field("messages", "messages: absent"))?;
        let messages: Vec<Message> = serde_json::from_value(messages)
            .map_err(|error| ApiError::field("messages", format!("messages: {error}")))?;
        if messages.is_empty() {
            return Err(ApiError::field("messages", "messages: one turn at least is wanted"));
        }
        let generation = fields.truth("add_generation_prompt")?.unwrap_or(true);
        let wanted = fields.is_set("logprobs")?;
        let top = fields.integer("top_logprobs", 0..=ServerLimits::TOP_LOGPROBS)?;
        if top.is_some() && !wanted {
            return Err(ApiError::field("top_logprobs", "top_logprobs: needs \"logprobs\": true"));
        }
        let is_empty_list = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
        fields.refuse("tools", is_empty_list)?;
        fields.refuse("functions", is_empty_list)?;
        fields.refuse("tool_choice", |value| value == "none")?;
        fields.refuse("response_format", |value| value["type"] == "text")?;
        fields.ignore(&["parallel_tool_calls"]);
        let ids = policy.codec.conversation_ids(&messages, generation)?;
        Ok((Self { top: wanted.then_some(top.unwrap_or(0)) }, vec![PromptTokens { ids, text: None }]))
    }

    fn complete(&self, options: &mut RequestOptions, _: &ServerLimits) -> ApiResult<()> {
        if options.max_tokens == Some(0) {
            return Err(ApiError::field("max_tokens", "max_tokens: an answer has one token at least"));
        }
        Ok(())
    }

    fn top(&self) -> Option<usize> {
        self.top
    }

    fn echoes(&self) -> bool {
        false
    }

    fn choice(&self, _: Option<&EchoedPrompt<'_>>, piece: &TextPiece<'_>, texts: &TokenTexts<'_>) -> Value {
        json!({
            "message": {"role": "assistant", "content": piece.text},
            "logprobs": self.logprobs(piece.tokens, texts),
        })
    }

    fn opening(&self, _: Option<&EchoedPrompt<'_>>, _: &TokenTexts<'_>) -> Option<Value> {
        Some(json!({"delta": {"role": "assistant", "content": ""}, "logprobs": null}))
    }

    fn delta(&self, piece: &TextPiece<'_>, texts: &TokenTexts<'_>) -> Value {
        let delta = if piece.text.is_empty() { json!({}) } else { json!({"content": piece.text}) };
        json!({"delta": delta, "logprobs": self.logprobs(piece.tokens, texts)})
    }
}

impl ChatForm {
    fn logprobs(&self, tokens: &[ShownToken], texts: &TokenTexts<'_>) -> Value {
        if self.top.is_none() || tokens.is_empty() {
            return Value::Null;
        }
        let one = |id: u32, value: f32| json!({"token": texts.text(id), "logprob": logprob(value), "bytes": texts.bytes(id)});
        let content = tokens.iter().map(|ShownToken { token, top }| {
            let mut entry = one(token.id, token.logprob);
            entry["top_logprobs"] = top.iter().map(|other| one(other.id, other.logprob)).collect();
            entry
        });
        json!({"content": content.collect::<Vec<Value>>(), "refusal": null})
    }
}
