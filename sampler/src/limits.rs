//! What a schedule may use, and how many pages that comes to.

use selfplay_model::PAGE_TOKENS;

use crate::sequence::private_pages;
use crate::{Capacity, SampleRequest, SampleSettings};

/// What the schedule may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) rows: usize,
    pub(crate) token_budget: usize,
    pub(crate) samples: usize,
    pub(crate) seed: u64,
    pub(crate) iteration: u64,
    max_new_tokens: usize,
    max_positions: usize,
}

impl Limits {
    pub(crate) fn new(settings: &SampleSettings, capacity: Capacity, max_positions: usize) -> Self {
        Self {
            // Every running row has a token in every step.
            rows: capacity.rows.min(capacity.token_budget),
            token_budget: capacity.token_budget,
            samples: settings.num_samples,
            seed: settings.seed,
            iteration: settings.iteration,
            max_new_tokens: settings.max_new_tokens,
            max_positions,
        }
    }

    /// Tokens that a prompt's response may have.
    pub(crate) fn response_limit(&self, prompt_tokens: usize) -> usize {
        self.max_new_tokens.min(self.max_positions.saturating_sub(prompt_tokens))
    }

    /// Pages of a candidate's prompt and its own beside the prompt's full ones, if it is as long as it may be.
    pub(crate) fn private_pages(&self, prompt_tokens: usize) -> usize {
        private_pages(prompt_tokens, self.response_limit(prompt_tokens))
    }

    /// Pages for a full batch of the greatest requests, at most `affordable`; at least those of the longest candidate,
    /// so that the oldest one can always go on.
    pub(crate) fn pool_pages<'r>(
        &self,
        requests: impl IntoIterator<Item = &'r SampleRequest>,
        affordable: usize,
    ) -> usize {
        let (mut prompt, mut private, mut one, mut all) = (0usize, 0usize, 0usize, 0usize);
        for request in requests {
            let tokens = request.prompt_ids.len();
            let (shared, own) = (tokens.div_ceil(PAGE_TOKENS), self.private_pages(tokens));
            prompt = prompt.max(shared);
            private = private.max(own);
            one = one.max(shared.max(tokens / PAGE_TOKENS + own));
            all = all.saturating_add(shared.saturating_add(own.saturating_mul(self.samples)));
        }
        // Every row may belong to another prompt, and one prompt is ahead of them.
        let batch = (prompt + private).saturating_mul(self.rows.saturating_add(1));
        // Pages have numbers of 32 bits.
        batch.min(all).min(affordable).min(u32::MAX as usize).max(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(rows: usize, samples: usize, max_new_tokens: usize) -> Limits {
        let settings = SampleSettings { num_samples: samples, max_new_tokens, ..SampleSettings::default() };
        let capacity = Capacity { rows, token_budget: 1000, ..Capacity::CPU };
        Limits::new(&settings, capacity, 1000)
    }

    fn requests(lengths: &[usize]) -> Vec<SampleRequest> {
        let request = |&n: &usize| SampleRequest { prompt_id: n.to_string(), prompt_ids: vec![1; n] };
        lengths.iter().map(request).collect()
    }

    #[test]
    fn the_pool_is_no_greater_than_the_requests_need() {
        let limits = limits(64, 2, 17);
        assert_eq!(limits.pool_pages(&requests(&[16, 16]), 1_000_000), 2 * (1 + 2));
        assert_eq!(limits.pool_pages(&requests(&[16, 16]), 4), 4);
        assert_eq!(limits.pool_pages(&[], 4), 0);
    }

    #[test]
    fn the_pool_holds_the_longest_candidate_and_no_more_than_a_batch() {
        // 40 tokens and 29 cached ones of a response of 30 stand in five pages.
        assert_eq!(limits(64, 3, 30).pool_pages(&requests(&[40, 3, 17, 40]), 0), 5);
        assert_eq!(limits(64, 3, 1).pool_pages(&requests(&[40]), 0), 3);
        // Three pages of the prompt and three of its own, for two rows and the prompt ahead.
        assert_eq!(limits(2, 3, 30).pool_pages(&requests(&[40; 100]), 1_000_000), 3 * (3 + 3));
    }
}
