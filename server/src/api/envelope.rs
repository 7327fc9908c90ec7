//! What a whole answer and the chunks of a stream have in common.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::form::{AnswerForm, PreparedRequest};
use crate::error::ApiError;
use crate::state::ServerState;
use crate::worker::PolicyHandle;

/// What every part of an answer begins with.
pub(super) struct Envelope {
    id: String,
    created: u64,
    model: String,
}

impl Envelope {
    pub(super) fn new<F: AnswerForm>(state: &ServerState, policy: &PolicyHandle) -> Self {
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { id: state.answer_id(F::ID), created, model: policy.shape.name.clone() }
    }

    /// An object of this answer.
    pub(super) fn object(&self, kind: &str, choices: Vec<Value>) -> Map<String, Value> {
        let value = json!({
            "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices,
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// An answer that took longer than the limit.
pub(super) fn out_of_time() -> ApiError {
    ApiError::new(StatusCode::GATEWAY_TIMEOUT, "the answer took longer than the server's time limit")
}

pub(super) fn prompt_tokens<F>(prepared: &PreparedRequest<F>) -> usize {
    prepared.prompts.iter().map(|prompt| prompt.request.prompt_ids.len()).sum()
}
