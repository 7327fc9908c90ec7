//! Which path is which endpoint.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{get, post};

use super::guard::Guard;
use crate::api::{ChatForm, CompletionForm, answer, arena, health, models};
use crate::error::ApiError;
use crate::state::ServerState;

/// All endpoints, each behind the guard.
pub(super) fn router(state: Arc<ServerState>, guard: Guard) -> Router {
    let guard = Arc::new(guard);
    let check = move |request: Request, next: Next| {
        let guard = guard.clone();
        async move {
            match guard.check(request.uri().path(), request.headers()) {
                Ok(()) => next.run(request).await,
                Err(error) => error.into_response(),
            }
        }
    };
    Router::new()
        .route("/v1/completions", post(answer::<CompletionForm>))
        .route("/v1/chat/completions", post(answer::<ChatForm>))
        .route("/v1/models", get(models::list))
        .route("/health", get(health::health))
        .route("/metrics", get(health::metrics))
        .route("/arena", get(arena::page))
        .route("/arena/verdict", post(arena::verdict))
        .route("/arena/vote", post(arena::vote))
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method")
        })
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is no such path") })
        .layer(from_fn(check))
        .with_state(state)
}
