//! A request in progress, as the schedule and the draws read it.

use std::sync::Arc;

use super::limits::PageNeed;
use crate::pick::PickRule;
use crate::{PromptStream, Request, RequestId, StopRule, WantedLogProbs};

/// A request that the engine works on.
#[derive(Debug)]
pub(crate) struct ActiveRequest {
    pub id: RequestId,
    pub prompt_id: String,
    pub prompt_ids: Vec<u32>,
    pub samples: usize,
    /// Tokens of a response at most: the request's limit, or the rest of the model's context if that is less.
    pub limit: usize,
    pub stream: PromptStream,
    pub rule: PickRule,
    pub stop: Arc<StopRule>,
    pub logprobs: WantedLogProbs,
}

impl ActiveRequest {
    /// From a request that was checked, for a model with a context of so many positions.
    pub(crate) fn new(id: RequestId, request: Request, max_positions: usize) -> Self {
        let Request { prompt_id, prompt_ids, sampling, stop, logprobs } = request;
        Self {
            id,
            samples: sampling.num_samples,
            limit: sampling.max_new_tokens.min(max_positions.saturating_sub(prompt_ids.len())),
            stream: PromptStream::new(sampling.seed, sampling.iteration, &prompt_id),
            rule: PickRule::new(&sampling),
            prompt_id,
            prompt_ids,
            stop,
            logprobs,
        }
    }

    /// Tokens of the prompt.
    pub(crate) fn tokens(&self) -> usize {
        self.prompt_ids.len()
    }

    /// Pages that it may come to need.
    pub(crate) fn page_need(&self) -> PageNeed {
        PageNeed::new(self.tokens(), self.limit, self.samples)
    }
}
