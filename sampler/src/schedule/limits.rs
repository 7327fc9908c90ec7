//! What a schedule may use, and how many pages requests need.

use selfplay_model::PAGE_TOKENS;

use crate::Capacity;

/// The limits of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScheduleLimits {
    /// Candidates in a step.
    pub rows: usize,
    /// Tokens in a step.
    pub token_budget: usize,
    /// Tokens of prompts in a step whose log-probs are wanted: each has a row of logits.
    pub scored_rows: usize,
    /// Pages that the cache's memory holds.
    pub affordable_pages: usize,
    /// The model's context.
    pub max_positions: usize,
}

impl ScheduleLimits {
    pub(crate) fn new(
        capacity: Capacity,
        page_bytes: usize,
        max_positions: usize,
        vocab_size: usize,
    ) -> Self {
        /// Memory for the logits of prompts' tokens.
        const SCORED_BYTES: usize = 64 << 20;
        let row_bytes = vocab_size.max(1) * size_of::<f32>();
        Self {
            scored_rows: (SCORED_BYTES / row_bytes).max(16),
            // Every running row has a token in every step.
            rows: capacity.rows.min(capacity.token_budget),
            token_budget: capacity.token_budget,
            affordable_pages: capacity.cache_bytes / page_bytes.max(1),
            max_positions,
        }
    }

    /// Pages for a full batch of the greatest requests, at most those that there is memory for; at least those of the
    /// longest candidate, so that the oldest one can always continue.
    pub(crate) fn pool_pages(&self, needs: impl Iterator<Item = PageNeed>) -> usize {
        let (mut prompt, mut private, mut one, mut all) = (0usize, 0usize, 0usize, 0usize);
        for need in needs {
            prompt = prompt.max(need.prompt);
            private = private.max(need.private);
            one = one.max(need.longest);
            all = all.saturating_add(need.all());
        }
        // Every row may belong to another prompt, and one prompt is ahead of them.
        let batch = (prompt + private).saturating_mul(self.rows.saturating_add(1));
        // Pages have numbers of 32 bits.
        batch.min(all).min(self.affordable_pages).min(u32::MAX as usize).max(one)
    }

    /// Pages for requests that are not known beforehand: as many as there is memory for, and at least those of the model's
    /// whole context.
    pub(crate) fn most_pages(&self) -> usize {
        let context = PageNeed::new(self.max_positions, 1, 1);
        self.affordable_pages.min(u32::MAX as usize).max(context.longest)
    }
}

/// Pages that a request's candidates hold if they are as long as they may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageNeed {
    /// Of the prompt, the last of them perhaps partly filled.
    pub prompt: usize,
    /// Of a candidate beside the prompt's full ones.
    pub private: usize,
    /// Of the prompt and one candidate.
    pub longest: usize,
    samples: usize,
}

impl PageNeed {
    /// Of a prompt and `samples` responses of `limit` tokens. A response's last token is never fed back, so it needs no
    /// place.
    pub(crate) fn new(prompt_tokens: usize, limit: usize, samples: usize) -> Self {
        let cached = prompt_tokens + limit.saturating_sub(1);
        let (prompt, full) = (prompt_tokens.div_ceil(PAGE_TOKENS), prompt_tokens / PAGE_TOKENS);
        let private = cached.div_ceil(PAGE_TOKENS) - full;
        Self { prompt, private, longest: prompt.max(full + private), samples }
    }

    /// Of the prompt and all candidates.
    fn all(&self) -> usize {
        self.prompt.saturating_add(self.private.saturating_mul(self.samples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool_pages(rows: usize, affordable_pages: usize, needs: &[PageNeed]) -> usize {
        let limits = ScheduleLimits {
            rows,
            token_budget: 1000,
            scored_rows: 1000,
            affordable_pages,
            max_positions: 1000,
        };
        limits.pool_pages(needs.iter().copied())
    }

    fn needs(lengths: &[usize], samples: usize, limit: usize) -> Vec<PageNeed> {
        lengths.iter().map(|&tokens| PageNeed::new(tokens, limit, samples)).collect()
    }

    #[test]
    fn the_pool_is_no_greater_than_the_requests_need() {
        let two = needs(&[16, 16], 2, 17);
        assert_eq!(pool_pages(64, 1_000_000, &two), 2 * (1 + 2));
        assert_eq!(pool_pages(64, 4, &two), 4);
        assert_eq!(pool_pages(64, 4, &[]), 0);
    }

    #[test]
    fn the_pool_holds_the_longest_candidate_and_no_more_than_a_batch() {
        // 40 tokens and 29 cached ones of a response of 30 stand in five pages.
        assert_eq!(pool_pages(64, 0, &needs(&[40, 3, 17, 40], 3, 30)), 5);
        assert_eq!(pool_pages(64, 0, &needs(&[40], 3, 1)), 3);
        // Three pages of the prompt and three of its own, for two rows and the prompt ahead.
        assert_eq!(pool_pages(2, 1_000_000, &needs(&[40; 100], 3, 30)), 3 * (3 + 3));
    }

    #[test]
    fn requests_of_different_rules_are_counted_by_their_own() {
        let mixed = [needs(&[16], 1, 17), needs(&[16], 4, 33)].concat();
        assert_eq!(pool_pages(64, 1_000_000, &mixed), (1 + 1) + (1 + 4 * 2));
        assert_eq!(pool_pages(64, 0, &mixed), 3);
    }

    #[test]
    fn pages_of_the_longest_course() {
        let private = |tokens, limit| PageNeed::new(tokens, limit, 1).private;
        // 5 prompt tokens share no full page; tokens 5..20 of 16 positions a page: 20 cached positions, two pages.
        assert_eq!(private(5, 16), 2);
        assert_eq!(private(5, 12), 1);
        // 32 prompt tokens fill two shared pages; the first private one begins with the first token fed back.
        assert_eq!(private(32, 1), 0);
        assert_eq!(private(32, 2), 1);
        assert_eq!(private(33, 1), 1);
    }

    /// What rows are chosen by is what the schedule may come to need.
    #[test]
    fn a_response_has_the_pages_of_the_worst_prompt() {
        for tokens in 1..70 {
            let most = (1..=PAGE_TOKENS).map(|prompt| PageNeed::new(prompt, tokens, 1).private).max();
            assert_eq!(Some(Capacity::response_bytes(tokens, 1)), most, "{tokens}");
        }
    }

    #[test]
    fn a_pool_for_anything_holds_the_whole_context() {
        let capacity = Capacity { rows: 4, token_budget: 9, cache_bytes: 700 };
        assert_eq!(ScheduleLimits::new(capacity, 100, 90, 40).most_pages(), 7);
        assert_eq!(ScheduleLimits::new(capacity, 1000, 90, 40).most_pages(), 6);
    }
}
