//! What a model is asked, and what it answers.

use selfplay_records::{FinishReason, Message};
use serde::{Deserialize, Serialize};

/// Something to be answered.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ModelQuestion {
    /// Of its own within its step: decides the answer's randomness.
    pub(super) id: String,
    pub(super) messages: Vec<Message>,
}

impl ModelQuestion {
    /// A question of one turn.
    pub(super) fn user(id: String, text: String) -> Self {
        Self { id, messages: vec![Message::user(text)] }
    }
}

/// What a model answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct ModelReply {
    /// The question's.
    pub(super) id: String,
    pub(super) text: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finish_reason: Option<FinishReason>,
    /// Tokens of the question, as the model counts them.
    pub(super) prompt_tokens: u64,
    /// Tokens of the answer.
    pub(super) completion_tokens: u64,
    /// Why there is no answer: the question does not fit the model, or the server refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

impl ModelReply {
    /// To a question that has no answer.
    pub(super) fn refused(id: &str, why: String) -> Self {
        Self {
            id: id.to_owned(),
            text: String::new(),
            finish_reason: None,
            prompt_tokens: 0,
            completion_tokens: 0,
            refused: Some(why),
        }
    }
}

/// What a model was asked in all its steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct AskedCount {
    pub(super) questions: u64,
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
}
