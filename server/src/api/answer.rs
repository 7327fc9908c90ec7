//! The responses to one prompt, collected from its job.

use selfplay_records::FinishReason;
use selfplay_sampler::{Sample, SampledToken, ScoredToken, StopRule};
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult};
use crate::worker::{GenerationJob, JobEvent, PolicyShape};

/// A token and the most likely ones at its place.
#[derive(Clone, Debug)]
pub(crate) struct ShownToken {
    pub(crate) token: SampledToken,
    pub(crate) top: Vec<SampledToken>,
}

impl From<ScoredToken> for ShownToken {
    fn from(ScoredToken { token, top }: ScoredToken) -> Self {
        Self { token, top }
    }
}

/// All that a job gave.
#[derive(Debug, Default)]
pub(crate) struct CollectedAnswer {
    /// Of the prompt's tokens from the second on, where they were asked for.
    pub(crate) prompt: Vec<ShownToken>,
    /// By the responses' numbers.
    pub(crate) responses: Vec<AnswerResponse>,
}

/// One response.
#[derive(Debug, Default)]
pub(crate) struct AnswerResponse {
    pub(crate) tokens: Vec<ShownToken>,
    pub(crate) ids: Vec<u32>,
    pub(crate) finish_reason: Option<FinishReason>,
}

impl CollectedAnswer {
    /// Waits for a job's end.
    ///
    /// # Errors
    /// The job's, or a worker that is gone.
    pub(crate) async fn collect(mut job: GenerationJob, responses: usize) -> ApiResult<Self> {
        let mut answer = Self::default();
        answer.responses.resize_with(responses, AnswerResponse::default);
        while let Some(event) = job.next().await {
            match event {
                JobEvent::Prompt(tokens) => answer.prompt = tokens.into_iter().map(Into::into).collect(),
                JobEvent::Token { sample, token, top } => {
                    if let Some(response) = answer.responses.get_mut(sample) {
                        response.tokens.push(ShownToken { token, top });
                    }
                }
                JobEvent::Finished(sample) => answer.finish(sample),
                JobEvent::Failed { kind, message } => return Err(ApiError::of_kind(kind, &message)),
            }
        }
        if job.is_over() { Ok(answer) } else { Err(lost()) }
    }

    fn finish(&mut self, sample: Sample) {
        let Some(response) = self.responses.get_mut(sample.sample) else { return };
        if response.tokens.is_empty() {
            let tokens = sample.ids.iter().zip(&sample.logprobs);
            response.tokens = tokens
                .map(|(&id, &logprob)| ShownToken { token: SampledToken { id, logprob }, top: Vec::new() })
                .collect();
        }
        response.ids = sample.ids;
        response.finish_reason = Some(sample.finish_reason);
    }
}

/// The worker of a request has ended by a defect.
pub(crate) fn lost() -> ApiError {
    ApiError::internal("a model's thread is gone")
}

/// `stop` or `length`.
pub(crate) fn reason(finish_reason: Option<FinishReason>) -> Value {
    match finish_reason {
        Some(FinishReason::Stop) => json!("stop"),
        Some(FinishReason::Length) => json!("length"),
        None => Value::Null,
    }
}

/// What ended a response, as vLLM tells it: the stop text, a stop id other than the model's own, else null.
pub(crate) fn stop_reason(
    policy: &PolicyShape,
    stop: &StopRule,
    ids: &[u32],
    finish_reason: Option<FinishReason>,
) -> Value {
    let Some(&last) = ids.last().filter(|_| finish_reason == Some(FinishReason::Stop)) else {
        return Value::Null;
    };
    if stop.is_stop_id(last) {
        return if policy.stop_ids.contains(&last) { Value::Null } else { json!(last) };
    }
    let text = policy.codec.tokenizer.decode(ids, true).unwrap_or_default();
    let first = stop.texts().iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at, stop)));
    first.min_by_key(|(at, _)| *at).map_or(Value::Null, |(_, stop)| json!(stop))
}

/// Tokens of prompt and responses.
pub(crate) fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// A log-prob as JSON, which has no infinity: a token that cannot be has −9999, as with vLLM.
pub(crate) fn logprob(value: f32) -> Value {
    json!(if value.is_finite() { f64::from(value) } else { -9999.0 })
}
