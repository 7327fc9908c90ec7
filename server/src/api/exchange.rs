//! An exchange: a body becomes prompts, prompts become jobs, jobs become an answer, whole or as a stream.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use selfplay_records::FinishReason;
use selfplay_sampler::{WantedLogProbs, text_of};
use serde_json::{Value, json};

use super::answer::{CollectedAnswer, reason, stop_reason, usage};
use super::body;
use super::envelope::{Envelope, out_of_time, prompt_tokens};
use super::fields::BodyFields;
use super::form::{AnswerForm, EchoedPrompt, PreparedPrompt, PreparedRequest, TextPiece};
use super::generation::RequestOptions;
use super::stream;
use super::token_text::TokenTexts;
use crate::error::{ApiError, ApiResult, json_body};
use crate::state::ServerState;
use crate::worker::GenerationJob;

/// The endpoint of a form.
pub(crate) async fn answer<F: AnswerForm>(
    State(state): State<Arc<ServerState>>,
    request: Request,
) -> Response {
    let response = match exchange::<F>(&state, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    state.metrics.answered(F::PATH, response.status().as_u16());
    response
}

async fn exchange<F: AnswerForm>(state: &Arc<ServerState>, request: Request) -> ApiResult<Response> {
    let bytes = body::json(state, request).await?;
    let active = state.begin();
    let began = Instant::now();
    let prepared = prepare::<F>(state, bytes).await?;
    let samples = prepared.options.sampling.num_samples;
    let asked = prepared.prompts.len().saturating_mul(samples);
    if asked > state.limits.queue {
        let most = state.limits.queue;
        let message = format!("the request asks for {asked} responses; at most {most} are answered at once");
        return Err(ApiError::new(StatusCode::BAD_REQUEST, message));
    }
    let policy = prepared.policy.clone();
    let Some(mut places) = policy.reserve(prepared.prompts.len(), state.limits.queue) else {
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "the model's queue is full; try again later",
        ));
    };
    let streams = prepared.options.stream || prepared.form.top().is_some_and(|top| top > 0);
    let jobs: Vec<GenerationJob> =
        prepared.prompts.iter().map(|one| policy.ask(one.request.clone(), streams, &mut places)).collect();
    let envelope = Envelope::new::<F>(state, &policy);
    if prepared.options.stream {
        return Ok(stream::start(active, prepared, jobs, envelope, began));
    }
    let collect = async {
        let mut answers = Vec::with_capacity(jobs.len());
        for job in jobs {
            answers.push(CollectedAnswer::collect(job, samples).await?);
        }
        Ok::<_, ApiError>(answers)
    };
    let answers = match tokio::time::timeout(state.limits.answer_time, collect).await {
        Ok(answers) => answers?,
        Err(_) => return Err(out_of_time()),
    };
    let (value, tokens) = whole(&prepared, &answers, &envelope)?;
    state.metrics.generated(prompt_tokens(&prepared), tokens, began.elapsed());
    Ok(json_body(&value).into_response())
}

/// Parses, renders and tokenises on a thread that may block; a few at a time, since each has a body in memory.
async fn prepare<F: AnswerForm>(
    state: &Arc<ServerState>,
    bytes: axum::body::Bytes,
) -> ApiResult<PreparedRequest<F>> {
    let _turn = state.preparing.acquire().await.map_err(ApiError::internal)?;
    let of_thread = state.clone();
    tokio::task::spawn_blocking(move || prepare_now(&of_thread, &bytes)).await.map_err(ApiError::internal)?
}

fn prepare_now<F: AnswerForm>(state: &ServerState, bytes: &[u8]) -> ApiResult<PreparedRequest<F>> {
    let mut fields = BodyFields::parse(bytes)?;
    let policy = state.policy(fields.text("model")?.as_deref())?;
    let mut options = RequestOptions::read(&mut fields, F::MAX_TOKENS, &state.limits)?;
    let (form, prompts) = F::read(&mut fields, &policy.shape)?;
    fields.finish()?;
    form.complete(&mut options, &state.limits)?;
    let stop = options.stop_rule(&policy.shape)?;
    let logprobs =
        WantedLogProbs { top: form.top().unwrap_or(0), prompt: form.echoes() && form.top().is_some() };
    let mut prepared = Vec::with_capacity(prompts.len());
    for prompt in prompts {
        let echo = match (form.echoes(), prompt.text) {
            (false, _) => None,
            (true, Some(text)) => Some(text),
            (true, None) => Some(policy.shape.codec.tokenizer.decode(&prompt.ids, false)?),
        };
        let request = options.request(&policy.shape, prompt.ids, &stop, logprobs, &state.limits)?;
        prepared.push(PreparedPrompt { request, echo });
    }
    Ok(PreparedRequest { policy, options, stop, prompts: prepared, form })
}

/// The answer as one object, and its tokens.
fn whole<F: AnswerForm>(
    prepared: &PreparedRequest<F>,
    answers: &[CollectedAnswer],
    envelope: &Envelope,
) -> ApiResult<(Value, usize)> {
    let PreparedRequest { policy, options, stop, prompts, form } = prepared;
    let shape = &policy.shape;
    let texts = TokenTexts::new(&shape.codec, options.tokens_as_ids);
    let (mut choices, mut tokens) = (Vec::new(), 0);
    for (prompt, answer) in prompts.iter().zip(answers) {
        let ids = &prompt.request.prompt_ids;
        let echoed = prompt.echo.as_deref().map(|text| EchoedPrompt { text, ids, tokens: &answer.prompt });
        for response in &answer.responses {
            let none = options.max_tokens == Some(0);
            let finish = if none { Some(FinishReason::Length) } else { response.finish_reason };
            let (own, drawn) =
                if none { (&[][..], &[][..]) } else { (response.ids.as_slice(), response.tokens.as_slice()) };
            let codec: &selfplay_model::Codec = &shape.codec;
            let text = text_of(codec, stop, own, finish.unwrap_or(FinishReason::Length))?;
            let piece = TextPiece { text, tokens: drawn, offset: 0 };
            let mut choice = form.choice(echoed.as_ref(), &piece, &texts);
            choice["index"] = json!(choices.len());
            choice["finish_reason"] = reason(finish);
            choice["stop_reason"] = stop_reason(shape, stop, own, finish);
            if options.return_token_ids {
                choice["token_ids"] = json!(own);
                choice["prompt_token_ids"] = json!(ids);
            }
            tokens += own.len();
            choices.push(choice);
        }
    }
    let mut object = envelope.object(F::OBJECT, choices);
    object.insert("usage".to_owned(), usage(prompt_tokens(prepared), tokens));
    Ok((object.into(), tokens))
}
