//! What completions and chat completions have in common: how responses are drawn, when they end, and in which form they come.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use selfplay_records::Kind;
use selfplay_sampler::{Request, SampleError, Sampling, Stop, StopRule, WantedLogProbs};
use serde_json::Value;

use super::fields::{BodyFields, wrong};
use crate::error::{ApiError, ApiResult};
use crate::limits::ServerLimits;
use crate::worker::PolicyShape;

/// How a request's prompts are answered.
#[derive(Clone, Debug)]
pub(crate) struct RequestOptions {
    pub(crate) sampling: Sampling,
    /// Tokens of a response; `None`: as many as fit.
    pub(crate) max_tokens: Option<usize>,
    /// Part of the key of the random numbers.
    prompt_id: String,
    stops: Vec<Stop>,
    ignore_eos: bool,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) return_token_ids: bool,
    pub(crate) tokens_as_ids: bool,
}

impl RequestOptions {
    /// Reads their fields. `max_tokens` names the field of that purpose, the first that is there.
    ///
    /// # Errors
    /// A value that is out of range, or that asks for what we don't have.
    pub(crate) fn read(
        fields: &mut BodyFields,
        max_tokens: &[&str],
        limits: &ServerLimits,
    ) -> ApiResult<Self> {
        let zero = |value: &Value| value.as_f64() == Some(0.0);
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        let most = limits.max_tokens.unwrap_or(1 << 30);
        let mut limit = None;
        for name in max_tokens {
            let given = fields.integer(name, 0..=most)?;
            limit = limit.or(given);
        }
        let n = fields.integer("n", 1..=limits.responses)?.unwrap_or(1);
        let temperature = fields.number("temperature")?.unwrap_or(1.0);
        let top_p = fields.number("top_p")?.unwrap_or(1.0);
        let top_k = match fields.take("top_k") {
            None => 0,
            Some(value) => match value.as_i64() {
                Some(-1) => 0,
                Some(k) if k >= 0 => k as usize,
                _ => return Err(wrong("top_k", "an integer of 0 or more (0 or -1 is off)", &value)),
            },
        };
        let min_p = fields.number("min_p")?.unwrap_or(0.0);
        let seed = match fields.take("seed") {
            None => fresh_seed(),
            Some(value) => match (value.as_u64(), value.as_i64()) {
                (Some(seed), _) => seed,
                (None, Some(seed)) => seed as u64,
                (None, None) => return Err(wrong("seed", "an integer of 64 bits", &value)),
            },
        };
        let sampling = Sampling {
            num_samples: n,
            temperature,
            top_p,
            top_k,
            min_p,
            max_new_tokens: 1,
            seed,
            iteration: fields.integer("iteration", 0..=usize::MAX)?.unwrap_or(0) as u64,
        };
        if let Some(problem) = sampling.validate().list.first() {
            return Err(ApiError::field(&problem.key, problem.to_string()));
        }
        let best_of = fields.take("best_of");
        if best_of.as_ref().is_some_and(|value| value.as_u64() != Some(n as u64)) {
            return Err(ApiError::field("best_of", "best_of: only the value of n is supported"));
        }
        for name in ["presence_penalty", "frequency_penalty"] {
            fields.refuse(name, zero)?;
        }
        fields.refuse("repetition_penalty", |value| value.as_f64() == Some(1.0))?;
        fields.refuse("logit_bias", empty)?;
        fields.refuse("skip_special_tokens", |value| value == &Value::Bool(true))?;
        fields.ignore(&[
            "user",
            "metadata",
            "store",
            "service_tier",
            "prompt_cache_key",
            "safety_identifier",
        ]);
        let stream = fields.is_set("stream")?;
        let include_usage = match fields.take("stream_options") {
            None => false,
            Some(Value::Object(options)) if stream => {
                options.get("include_usage").is_some_and(|value| value == &Value::Bool(true))
            }
            Some(other) => return Err(wrong("stream_options", "an object, with \"stream\": true", &other)),
        };
        Ok(Self {
            sampling,
            max_tokens: limit,
            prompt_id: fields.text("prompt_id")?.unwrap_or_default(),
            stops: stops(fields)?,
            ignore_eos: fields.is_set("ignore_eos")?,
            stream,
            include_usage,
            return_token_ids: fields.is_set("return_token_ids")?,
            tokens_as_ids: fields.is_set("return_tokens_as_token_ids")?,
        })
    }

    /// What ends a response of this policy.
    ///
    /// # Errors
    /// A stop id outside the vocabulary, an empty stop text.
    pub(crate) fn stop_rule(&self, policy: &PolicyShape) -> ApiResult<Arc<StopRule>> {
        let own: &[u32] = if self.ignore_eos { &[] } else { &policy.stop_ids };
        let codec: &selfplay_model::Codec = &policy.codec;
        match StopRule::new(codec, own, &self.stops, policy.vocab_size) {
            Ok(rule) => Ok(Arc::new(rule)),
            Err(SampleError::Settings(problems)) => {
                let message = problems.list.first().map(ToString::to_string).unwrap_or_default();
                Err(ApiError::field("stop", message))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A prompt's request. A limit of 0 draws one token, which nobody is shown: its place is computed with the prompt.
    ///
    /// # Errors
    /// A prompt that leaves no room, or that the vocabulary does not have.
    pub(crate) fn request(
        &self,
        policy: &PolicyShape,
        prompt_ids: Vec<u32>,
        stop: &Arc<StopRule>,
        logprobs: WantedLogProbs,
        limits: &ServerLimits,
    ) -> ApiResult<Request> {
        let room = policy.context.saturating_sub(prompt_ids.len());
        if prompt_ids.is_empty() {
            return Err(ApiError::of_kind(Kind::Input, "the prompt has no tokens; one at least is wanted"));
        }
        if room == 0 {
            let message = format!(
                "the prompt has {} tokens, which leave no room in the context of {}",
                prompt_ids.len(),
                policy.context
            );
            return Err(ApiError::field("prompt", message));
        }
        if let Some(id) = prompt_ids.iter().find(|&&id| id as usize >= policy.vocab_size) {
            let message = format!("token {id} is outside the vocabulary of {}", policy.vocab_size);
            return Err(ApiError::field("prompt", message));
        }
        let most = self.max_tokens.or(limits.max_tokens).unwrap_or(room).min(room);
        Ok(Request {
            prompt_id: self.prompt_id.clone(),
            prompt_ids,
            sampling: Sampling { max_new_tokens: most.max(1), ..self.sampling },
            stop: stop.clone(),
            logprobs,
        })
    }
}

fn stops(fields: &mut BodyFields) -> ApiResult<Vec<Stop>> {
    let mut stops = Vec::new();
    match fields.take("stop") {
        None => {}
        Some(Value::String(text)) => stops.push(Stop::Text(text)),
        Some(Value::Array(list)) => {
            for value in list {
                match value {
                    Value::String(text) => stops.push(Stop::Text(text)),
                    other => return Err(wrong("stop", "a string or a list of strings", &other)),
                }
            }
        }
        Some(other) => return Err(wrong("stop", "a string or a list of strings", &other)),
    }
    let bytes: usize =
        stops.iter().map(|stop| if let Stop::Text(text) = stop { text.len() } else { 0 }).sum();
    if stops.len() > ServerLimits::STOPS || bytes > ServerLimits::STOP_BYTES {
        let (most, bytes) = (ServerLimits::STOPS, ServerLimits::STOP_BYTES);
        return Err(ApiError::field("stop", format!("stop: at most {most} texts of {bytes} bytes in all")));
    }
    if let Some(value) = fields.take("stop_token_ids") {
        let ids = token_ids(&value).ok_or_else(|| wrong("stop_token_ids", "a list of token ids", &value))?;
        stops.extend(ids.into_iter().map(Stop::Id));
    }
    Ok(stops)
}

/// A list of token ids; `None` where it is something else.
pub(crate) fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    value.as_array()?.iter().map(id).collect()
}

/// A seed for a request that brings none: the standard library's hasher is keyed by the operating system's random numbers.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
