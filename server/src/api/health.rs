//! `GET /health` and `GET /metrics`.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde_json::json;

use crate::error::json_body;
use crate::state::ServerState;

/// 200 while every policy can be asked; 503 while the server drains, or after a policy's thread has ended by a defect.
pub(crate) async fn health(State(state): State<Arc<ServerState>>) -> impl IntoResponse {
    let lost = state.policies.iter().any(|policy| policy.gauges.is_lost.load(Ordering::Relaxed));
    let (status, word) = match (lost, state.is_draining()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "a model's thread is gone"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        _ => (StatusCode::OK, "ok"),
    };
    (status, json_body(&json!({"status": word})))
}

/// Counters in Prometheus' text form.
pub(crate) async fn metrics(State(state): State<Arc<ServerState>>) -> impl IntoResponse {
    let text = state.metrics.render(&state.policies);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}
