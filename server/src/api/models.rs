//! `GET /v1/models`.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use crate::error::json_body;
use crate::state::ServerState;

/// The policies by name, the default one first.
pub(crate) async fn list(State(state): State<Arc<ServerState>>) -> impl IntoResponse {
    let model = |policy: &Arc<crate::worker::PolicyHandle>| {
        let shape = &policy.shape;
        json!({
            "id": shape.name, "object": "model", "created": state.started, "owned_by": "selfplay",
            "root": shape.root, "max_model_len": shape.context,
        })
    };
    let data: Vec<Value> = state.policies.iter().map(model).collect();
    json_body(&json!({"object": "list", "data": data}))
}
