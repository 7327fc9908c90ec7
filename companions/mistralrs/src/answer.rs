//! One request: handed to mistral.rs, its tokens taken from the drawer, its answer in the form of OpenAI's interface.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use either::Either;
use indexmap::IndexMap;
use mistralrs_core::{
    Constraint, CustomLogitsProcessor, NormalRequest, Request as EngineRequest, RequestMessage, Response,
    SamplingParams,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::channel;

use crate::draw::{Drawer, DrawnToken};
use crate::model::LoadedModel;
use crate::request::{Call, CompletionPrompt, Request, Rules};
use crate::wire::Wire;

/// How often a request that is worked on gives a sign.
const PROGRESS: Duration = Duration::from_secs(5);

/// Chunks that wait for their reader.
const WAITING: usize = 1024;

/// Why a request has no answer.
struct Refusal {
    message: String,
    /// Whether another try may succeed.
    is_temporary: bool,
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self { message: format!("{error:#}"), is_temporary: false }
    }
}

/// Answers a request, or says why not.
pub async fn answer(model: &LoadedModel, wire: &Wire, request: Request) {
    let id = request.id;
    match answer_to(model, wire, request).await {
        Ok(answer) => wire.answer(id, &answer),
        Err(refusal) => wire.refuse(id, &refusal.message, refusal.is_temporary),
    }
}

async fn answer_to(model: &LoadedModel, wire: &Wire, request: Request) -> Result<Value, Refusal> {
    let id = request.id;
    let (messages, rules, is_chat) = match request.call {
        Call::Models => return Ok(json!({"data": [{"id": model.name, "root": model.path}]})),
        Call::Complete(CompletionPrompt::Ids(ids), rules) => {
            (RequestMessage::CompletionTokens(ids), rules, false)
        }
        Call::Complete(CompletionPrompt::Text(text), rules) => {
            (RequestMessage::Completion { text, echo_prompt: false, best_of: None }, rules, false)
        }
        Call::Chat(turns, rules) => {
            let turn = |(role, content)| {
                IndexMap::from([
                    ("role".to_owned(), Either::Left(role)),
                    ("content".to_owned(), Either::Left(content)),
                ])
            };
            let messages = turns.into_iter().map(turn).collect();
            (RequestMessage::Chat { messages, enable_thinking: None, reasoning_effort: None }, rules, true)
        }
    };
    let drawer = Arc::new(Drawer::new(rules.clone(), rules.seed.unwrap_or_else(|| unrepeatable(id))));
    let finish = run(model, wire, id, messages, &rules, &drawer).await?;
    let drawn = drawer.drawn().clone();
    let prompt_tokens = drawn.prompt_tokens.unwrap_or(0);
    let spoken = spoken(model, &drawn.tokens, &finish).await?;
    let (text, matched) = cut(&spoken, &rules.stop);
    let usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": drawn.tokens.len(),
        "total_tokens": prompt_tokens + drawn.tokens.len(),
    });
    let stop_reason = match (matched, drawn.is_stopped, drawn.tokens.last()) {
        (Some(stop), _, _) => json!(stop),
        (None, true, Some(last)) => json!(last.id),
        _ => Value::Null,
    };
    let mut choice = json!({"index": 0, "finish_reason": finish, "stop_reason": stop_reason});
    if is_chat {
        choice["message"] = json!({"role": "assistant", "content": text});
        if rules.logprobs {
            choice["logprobs"] = json!({"content": named(model, &drawn.tokens).await?});
        }
    } else {
        choice["text"] = json!(text);
        choice["token_ids"] = drawn.tokens.iter().map(|token| token.id).collect();
        if rules.logprobs {
            let values: Vec<f32> = drawn.tokens.iter().map(|token| token.logprob).collect();
            choice["logprobs"] = json!({"token_logprobs": values});
        }
    }
    Ok(json!({"model": model.name, "choices": [choice], "usage": usage}))
}

/// Runs a request to its end; returns `stop` or `length`.
async fn run(
    model: &LoadedModel,
    wire: &Wire,
    id: u64,
    messages: RequestMessage,
    rules: &Rules,
    drawer: &Arc<Drawer>,
) -> Result<String, Refusal> {
    let (response, mut responses) = channel(WAITING);
    // One token is possible in each row by then.
    let sampling = SamplingParams { max_len: Some(rules.max_tokens), ..SamplingParams::deterministic() };
    let processor: Arc<dyn CustomLogitsProcessor> = Arc::clone(drawer) as _;
    let request = NormalRequest {
        messages,
        sampling_params: sampling,
        response,
        return_logprobs: false,
        // Chunks come with every token: a sign of life, and the request ends where nobody takes them any more.
        is_streaming: true,
        id: usize::try_from(id).unwrap_or(usize::MAX),
        constraint: Constraint::None,
        suffix: None,
        tools: None,
        tool_choice: None,
        logits_processors: Some(vec![processor]),
        return_raw_logits: false,
        web_search_options: None,
        model_id: None,
        truncate_sequence: false,
    };
    model.send(EngineRequest::Normal(Box::new(request))).await?;
    let mut told = Instant::now();
    let mut looked_at = 0;
    while let Some(response) = responses.recv().await {
        let finish = match response {
            Response::Chunk(chunk) => chunk.choices.first().and_then(|choice| choice.finish_reason.clone()),
            Response::CompletionChunk(chunk) => {
                chunk.choices.first().and_then(|choice| choice.finish_reason.clone())
            }
            Response::ValidationError(error) => return Err(anyhow!("{error}").into()),
            Response::InternalError(error) => return Err(anyhow!("mistral.rs: {error}").into()),
            Response::ModelError(message, _) | Response::CompletionModelError(message, _) => {
                return Err(Refusal { message: format!("mistral.rs: {message}"), is_temporary: true });
            }
            _ => return Err(anyhow!("mistral.rs: an answer of another kind").into()),
        };
        let (count, is_stopped) = {
            let drawn = drawer.drawn();
            (drawn.tokens.len(), drawn.is_stopped)
        };
        if let Some(finish) = finish {
            return Ok(if finish == "length" && !is_stopped { finish } else { "stop".to_owned() });
        }
        if is_stopped || ends_in_stop(model, rules, drawer, &mut looked_at).await? {
            return Ok("stop".to_owned());
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            wire.progress(id, count);
        }
    }
    Err(Refusal { message: "mistral.rs ended the request without an answer".to_owned(), is_temporary: true })
}

/// Whether a stop text stands in what was drawn, which is then cut after the token that completes it.
async fn ends_in_stop(
    model: &LoadedModel,
    rules: &Rules,
    drawer: &Drawer,
    looked_at: &mut usize,
) -> Result<bool> {
    if rules.stop.is_empty() {
        return Ok(false);
    }
    let ids: Vec<u32> = drawer.drawn().tokens.iter().map(|token| token.id).collect();
    while *looked_at < ids.len() {
        *looked_at += 1;
        let text = model.text_of(ids[..*looked_at].to_vec(), true).await?;
        if cut(&text, &rules.stop).1.is_some() {
            let mut drawn = drawer.drawn();
            drawn.tokens.truncate(*looked_at);
            return Ok(true);
        }
    }
    Ok(false)
}

/// The text of an answer; what ended it is not part of it.
async fn spoken(model: &LoadedModel, tokens: &[DrawnToken], finish: &str) -> Result<String> {
    let mut ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    if finish == "stop"
        && let Some(&last) = ids.last()
    {
        // A special token has no text. Another one that ended it by its id is left out by whoever named the id.
        let alone = model.text_of(vec![last], true).await?;
        if alone.is_empty() {
            ids.pop();
        }
    }
    if ids.is_empty() { Ok(String::new()) } else { model.text_of(ids, true).await }
}

/// A text up to the first of the stop texts in it, and which that is.
fn cut<'t>(text: &'t str, stops: &[String]) -> (&'t str, Option<String>) {
    let found = stops.iter().filter_map(|stop| Some((text.find(stop.as_str())?, stop))).min();
    found.map_or((text, None), |(place, stop)| (&text[..place], Some(stop.clone())))
}

/// Tokens with their texts and log-probs.
async fn named(model: &LoadedModel, tokens: &[DrawnToken]) -> Result<Vec<Value>> {
    let mut all = Vec::with_capacity(tokens.len());
    for token in tokens {
        let mut top = Vec::with_capacity(token.top.len());
        for &(id, logprob) in &token.top {
            top.push(json!({"token": model.text_of(vec![id], false).await?, "logprob": logprob}));
        }
        let text = model.text_of(vec![token.id], false).await?;
        all.push(json!({"token": text, "logprob": token.logprob, "top_logprobs": top}));
    }
    Ok(all)
}

/// A seed for a request that names none.
fn unrepeatable(id: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_nanos() as u64 ^ id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_text_cuts() {
        let stops = ["###".to_owned(), "\n\n".to_owned()];
        assert_eq!(cut("a\n\nb###", &stops), ("a", Some("\n\n".to_owned())));
        assert_eq!(cut("a b", &stops), ("a b", None));
    }
}
