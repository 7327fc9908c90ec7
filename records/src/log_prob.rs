//! Rows of `selfplay logprobs`: a prompt and a response in, the response's log-probabilities out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::row::{self, Columns};
use crate::{ColumnSpec, ColumnType, FieldProblem, Message, Prompt, Row};

/// A prompt and a response, and the response's log-probabilities once they are known. Ids win over text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogProbRow {
    /// The prompt as one user message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The prompt as a conversation that ends before the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Message>>,
    /// The prompt's token ids, taken as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
    /// The response's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<String>,
    /// The response's token ids, taken as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_ids: Option<Vec<u32>>,
    /// Out: log π(response | prompt), the sum of `token_logprobs`, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f64>,
    /// Out: the log-probability of each response token, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_logprobs: Option<Vec<f32>>,
    /// The row's other fields, kept as they are.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl LogProbRow {
    /// The prompt's fields, without an id.
    pub fn to_prompt(&self) -> Prompt {
        Prompt {
            prompt_id: String::new(),
            prompt: self.prompt.clone(),
            messages: self.messages.clone(),
            prompt_ids: self.prompt_ids.clone(),
            others: None,
        }
    }
}

impl Row for LogProbRow {
    const NOUN: &'static str = "prompts with responses";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .where_some("prompt", row::text(), |row| row.prompt.is_some())
            .messages("messages", |row| row.messages.as_deref())
            .where_some("prompt_ids", row::ids(), |row| row.prompt_ids.is_some())
            .where_some("response", row::text(), |row| row.response.is_some())
            .where_some("response_ids", row::ids(), |row| row.response_ids.is_some())
            .where_some("logprob", row::number(), |row| row.logprob.is_some())
            .where_some("token_logprobs", ColumnType::Float32.list(), |row| row.token_logprobs.is_some())
            .extra(|row| &row.extra)
            .schema()
    }

    row::keeps_other_fields!();

    fn check(&self) -> Result<(), FieldProblem> {
        if self.prompt.is_none() && self.messages.is_none() && self.prompt_ids.is_none() {
            return Err(FieldProblem::new(
                "prompt",
                "\"prompt_ids\", \"prompt\" or \"messages\"",
                "none of them",
            ));
        }
        if self.response.is_none() && self.response_ids.is_none() {
            return Err(FieldProblem::new("response", "\"response_ids\" or \"response\"", "neither"));
        }
        if self.prompt_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(FieldProblem::new("prompt_ids", "at least one token id", "an empty array"));
        }
        Ok(())
    }
}
