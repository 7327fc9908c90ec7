//! A step's batch.

use selfplay_model::{PAGE_TOKENS, PagedRow};

use super::{ActiveRequest, Schedule};
use crate::FedToken;

/// Which tokens are drawn from one row of logits: one for a running row, K for a prompt, none where a prompt's next token
/// is only scored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitsDraw<'s> {
    pub request: &'s ActiveRequest,
    pub first_sample: usize,
    pub samples: usize,
    pub step: usize,
    /// A token whose log-prob is wanted.
    pub scored: Option<u32>,
}

impl LogitsDraw<'_> {
    /// Whether drawing is not all that is wanted of the logits.
    pub(crate) fn reads_logits(&self) -> bool {
        self.scored.is_some() || self.request.logprobs.top > 0
    }
}

/// One step's work: running rows first, then chunks of prefills.
pub(crate) struct Batch<'s> {
    pub ids: &'s [u32],
    /// Of `ids`, those that only the device knows.
    pub fed: &'s [FedToken],
    pub rows: Vec<PagedRow<'s>>,
    /// Indices into `ids`, one per entry of `draws`.
    pub logit_rows: &'s [usize],
    pub draws: Vec<LogitsDraw<'s>>,
}

impl Schedule {
    /// The step that was decided.
    pub(crate) fn batch(&self) -> Batch<'_> {
        let mut draws: Vec<LogitsDraw<'_>> = Vec::with_capacity(self.logit_rows.len());
        let mut rows: Vec<PagedRow<'_>> = Vec::with_capacity(self.running.len() + self.chunks.len());
        for row in &self.running {
            let request = &row.request;
            rows.push(PagedRow {
                new_tokens: 1,
                context: row.context(),
                pages: &row.pages,
                shared: whole_pages(request.tokens()),
            });
            let (first_sample, step) = (row.sample, row.length());
            draws.push(LogitsDraw { request, first_sample, samples: 1, step, scored: None });
        }
        for (prefill, &new_tokens) in self.prefilling.iter().zip(&self.chunks) {
            let request = &prefill.request;
            let shared = whole_pages(request.tokens());
            rows.push(PagedRow { new_tokens, context: prefill.done, pages: &prefill.pages, shared });
            let drawn = LogitsDraw { request, first_sample: 0, samples: 0, step: 0, scored: None };
            let end = prefill.done + new_tokens;
            if prefill.is_scored() {
                let scored = request.prompt_ids.iter().take(end + 1).skip(prefill.done + 1);
                draws.extend(scored.map(|&id| LogitsDraw { scored: Some(id), ..drawn }));
            }
            if prefill.resumed.is_none() && end == prefill.tokens() {
                draws.push(LogitsDraw { samples: request.samples, ..drawn });
            }
        }
        Batch { ids: &self.ids, fed: &self.fed, rows, logit_rows: &self.logit_rows, draws }
    }

    /// Lays out the tokens of the step: running rows first.
    pub(crate) fn fill_batch(&mut self) {
        self.ids.clear();
        self.fed.clear();
        self.logit_rows.clear();
        self.chunks.clear();
        let mut scored_left = self.limits.scored_rows;
        for row in &self.running {
            self.logit_rows.push(self.ids.len());
            if row.awaited > 0 {
                self.fed.push(FedToken { place: self.ids.len(), draw: row.drawn_at });
                self.ids.push(FedToken::UNKNOWN);
            } else {
                self.ids.extend(row.ids.last());
            }
        }
        for prefill in &self.prefilling {
            let mut left = self.limits.token_budget - self.ids.len();
            if prefill.is_scored() {
                left = left.min(scored_left);
            }
            if left == 0 {
                break;
            }
            let tokens = prefill.tokens();
            let end = tokens.min(prefill.done + left);
            match &prefill.resumed {
                Some(resumed) => {
                    let parts = resumed.cached_ids(prefill.done, end);
                    parts.iter().for_each(|part| self.ids.extend_from_slice(part));
                }
                None => self.ids.extend_from_slice(&prefill.request.prompt_ids[prefill.done..end]),
            }
            let chunk = end - prefill.done;
            self.chunks.push(chunk);
            if prefill.is_scored() {
                scored_left -= chunk;
                self.logit_rows.extend(self.ids.len() - chunk..self.ids.len());
            } else if end == tokens && prefill.resumed.is_none() {
                self.logit_rows.push(self.ids.len() - 1);
            }
            if end < tokens {
                // Prompts end in the order in which they began.
                break;
            }
        }
    }
}

/// Tokens of a prompt in pages that they fill, which its candidates hold together.
fn whole_pages(prompt_tokens: usize) -> usize {
    prompt_tokens / PAGE_TOKENS * PAGE_TOKENS
}
