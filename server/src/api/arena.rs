//! `GET /arena`, `POST /arena/verdict`, `POST /arena/vote`: two answers to a prompt, compared.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use serde_json::{Value, json};

use super::body;
use super::fields::BodyFields;
use crate::arena::{PAGE, Vote, VotedAnswer, Winning};
use crate::error::{ApiError, ApiResult, json_body};
use crate::state::ServerState;

/// The page. It loads nothing from elsewhere.
pub(crate) async fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
                  base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE))
}

/// P(first ≻ second) by the preference model.
pub(crate) async fn verdict(State(state): State<Arc<ServerState>>, request: Request) -> Response {
    answered(&state, "/arena/verdict", judge(&state, request).await)
}

/// Keeps a person's choice.
pub(crate) async fn vote(State(state): State<Arc<ServerState>>, request: Request) -> Response {
    answered(&state, "/arena/vote", keep(&state, request).await)
}

fn answered(state: &ServerState, path: &'static str, result: ApiResult<Value>) -> Response {
    let response = match result {
        Ok(value) => json_body(&value).into_response(),
        Err(error) => error.into_response(),
    };
    state.metrics.answered(path, response.status().as_u16());
    response
}

async fn judge(state: &Arc<ServerState>, request: Request) -> ApiResult<Value> {
    let bytes = body::json(state, request).await?;
    let mut fields = BodyFields::parse(&bytes)?;
    let [prompt, first, second] = ["prompt", "first", "second"].map(|name| needed(&mut fields, name));
    let (prompt, first, second) = (prompt?, first?, second?);
    fields.finish()?;
    if !state.arena.judges() {
        let message = "no preference model: start the server with --preference-model";
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    let of_thread = state.clone();
    let _turn = state.judging.acquire().await.map_err(ApiError::internal)?;
    let judge = move || of_thread.arena.probability(&prompt, &first, &second);
    let verdict = tokio::task::spawn_blocking(judge).await.map_err(ApiError::internal)?;
    let probability = verdict.map_err(|(kind, message)| ApiError::of_kind(kind, &message))?;
    Ok(json!({"probability": probability}))
}

async fn keep(state: &Arc<ServerState>, request: Request) -> ApiResult<Value> {
    let bytes = body::json(state, request).await?;
    let mut fields = BodyFields::parse(&bytes)?;
    let mut answer = |model: &str, text: &str| -> ApiResult<VotedAnswer> {
        Ok(VotedAnswer { model: needed(&mut fields, model)?, text: needed(&mut fields, text)? })
    };
    let (first, second) = (answer("first_model", "first")?, answer("second_model", "second")?);
    let winning = match needed(&mut fields, "vote")?.as_str() {
        "first" => Winning::First,
        "second" => Winning::Second,
        "tie" => Winning::Neither,
        _ => return Err(ApiError::field("vote", "vote: expected \"first\", \"second\" or \"tie\"")),
    };
    let probability = fields.number("probability")?;
    let vote = Vote { prompt: needed(&mut fields, "prompt")?, first, second, winning, probability };
    fields.finish()?;
    let of_thread = state.clone();
    let write = move || of_thread.arena.keep(&vote);
    let votes = tokio::task::spawn_blocking(write).await.map_err(ApiError::internal)?;
    Ok(json!({"votes": votes.map_err(ApiError::internal)?}))
}

fn needed(fields: &mut BodyFields, name: &str) -> ApiResult<String> {
    fields.text(name)?.ok_or_else(|| ApiError::field(name, format!("{name}: it is absent")))
}
