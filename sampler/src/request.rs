//! Requests to the engine and their events.

use std::sync::Arc;

use selfplay_model::Codec;
use selfplay_records::{FinishReason, Problems, Prompt};

use crate::{SampleError, SampleSettings, SampledToken, StopRule};

/// Names a request within its engine. A lesser one is older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

/// How many responses a request has, how long they may be, and how their tokens are drawn. The fields mean what the keys
/// of [`SampleSettings`] mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// K, the candidates of the prompt.
    pub num_samples: usize,
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// The most likely tokens that together hold this probability are kept; 1 is off.
    pub top_p: f64,
    /// This many of the most likely tokens are kept; 0 is off.
    pub top_k: usize,
    /// Tokens at least this fraction as likely as the most likely one are kept; 0 is off.
    pub min_p: f64,
    /// Tokens per response at most.
    pub max_new_tokens: usize,
    /// Part of the key of every random number, as are the prompt's id, the candidate and the token's place.
    pub seed: u64,
    /// Another part of the key.
    pub iteration: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        SampleSettings::default().sampling()
    }
}

impl Sampling {
    /// Every invalid field, in their order; empty when all are valid.
    pub fn validate(&self) -> Problems {
        let mut problems = Problems::default();
        let mut require = |holds: bool, key: &str, value: &dyn std::fmt::Display, want: &str| {
            problems.refuse(!holds, key, value, want);
        };
        require(
            (1..=1 << 20).contains(&self.num_samples),
            "num_samples",
            &self.num_samples,
            "an integer from 1 to 1048576",
        );
        require(
            self.temperature.is_finite() && self.temperature >= 0.0,
            "temperature",
            &self.temperature,
            "a finite number of 0 or more (0 is greedy)",
        );
        require(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "top_p",
            &self.top_p,
            "a number above 0 and at most 1 (1 is off)",
        );
        require((0.0..=1.0).contains(&self.min_p), "min_p", &self.min_p, "a number from 0 (off) to 1");
        require(
            (1..=1 << 30).contains(&self.max_new_tokens),
            "max_new_tokens",
            &self.max_new_tokens,
            "an integer from 1 to 1073741824",
        );
        problems
    }
}

/// Log-probs that a request wants beside those of its drawn tokens. They change no token. On a GPU they cost a copy of the
/// logits for every step that has such a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WantedLogProbs {
    /// So many of the most likely tokens at every place.
    pub top: usize,
    /// Also of the prompt's tokens: [`RequestEvent::Prompt`].
    pub prompt: bool,
}

/// A token of a text that was given, and the most likely ones at its place.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// The token and its log-probability under the unmodified distribution, in nats.
    pub token: SampledToken,
    /// By falling probability; as many as were wanted.
    pub top: Vec<SampledToken>,
}

/// A prompt to be answered, with rules of its own: requests of different rules share the engine's steps.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Part of the key of the prompt's randomness: the same id, seed and iteration give the same candidates, whatever other
    /// requests there are.
    pub prompt_id: String,
    /// One token at least.
    pub prompt_ids: Vec<u32>,
    /// How many responses it has and how they are drawn.
    pub sampling: Sampling,
    /// What ends a response, beside its length. Requests may share one.
    pub stop: Arc<StopRule>,
    /// What else is wanted of the distributions.
    pub logprobs: WantedLogProbs,
}

/// What happened to a request in a step of the engine.
#[derive(Debug)]
pub enum RequestEvent {
    /// A prompt's log-probs, where [`WantedLogProbs::prompt`] asks for them; before the first token.
    Prompt {
        /// The request.
        request: RequestId,
        /// Of the prompt's second token and all that follow: nothing stands before the first.
        tokens: Vec<ScoredToken>,
    },
    /// A candidate has one more token. The last one, which may be a stop token, is reported before its
    /// [`RequestEvent::Finished`].
    Token {
        /// The request.
        request: RequestId,
        /// 0-based among the request's candidates.
        sample: usize,
        /// The token.
        id: u32,
        /// Its log-probability under the unmodified distribution (temperature 1, no cut), in nats.
        logprob: f32,
        /// The most likely tokens at its place, by falling probability: [`WantedLogProbs::top`].
        top: Vec<SampledToken>,
    },
    /// A candidate has ended. A request has as many of these as its [`Sampling::num_samples`].
    Finished {
        /// The request.
        request: RequestId,
        /// The whole candidate.
        sample: Sample,
    },
    /// A request failed and is aborted; the others continue.
    Failed {
        /// The request.
        request: RequestId,
        /// Why.
        error: SampleError,
    },
}

/// One response as token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// 0-based among the prompt's candidates.
    pub sample: usize,
    /// The tokens, the stop token included.
    pub ids: Vec<u32>,
    /// Log-probability of each of `ids` under the unmodified distribution (temperature 1, no cut), in nats.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A prompt with its token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompt<'p> {
    /// The row that it comes from.
    pub prompt: &'p Prompt,
    /// One token at least.
    pub prompt_ids: Vec<u32>,
}

/// Prompts with their token ids, in their order, encoded as in the section "A prompt string" of the contract.
///
/// Fails where the chat template or the tokenizer does.
pub fn encode<'p>(codec: &Codec, prompts: &'p [Prompt]) -> Result<Vec<EncodedPrompt<'p>>, SampleError> {
    let encode = |prompt| Ok(EncodedPrompt { prompt, prompt_ids: codec.prompt_ids(prompt)? });
    prompts.iter().map(encode).collect()
}
