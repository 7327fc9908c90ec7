//! A step's batch, and the processing of the tokens that are drawn from it.

use std::ops::Range;

use selfplay_model::{PAGE_TOKENS, PagedRow};
use selfplay_records::FinishReason;

use super::sequence::Sequence;
use super::{ActiveRequest, Prefill, Schedule};
use crate::pick::RowTokens;
use crate::{RequestEvent, SampleError, ScoredToken, TextDecoder};

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
            let (first_sample, step) = (row.sample, row.ids.len());
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
        Batch { ids: &self.ids, rows, logit_rows: &self.logit_rows, draws }
    }

    /// Processes the drawn tokens: `tokens` gives what the batch's n-th draw gave, or `None` where its logits were not finite.
    pub(crate) fn postprocess<'p>(
        &mut self,
        tokens: impl Fn(usize) -> Option<RowTokens<'p>>,
        text: &dyn TextDecoder,
    ) -> Vec<RequestEvent> {
        let rows = std::mem::take(&mut self.running);
        let mut draw = rows.len();
        self.running.reserve(draw);
        let (mut events, mut failures) = (Vec::with_capacity(draw), Vec::new());
        for (row, mut sequence) in rows.into_iter().enumerate() {
            match self.accept(&mut sequence, tokens(row), 0, text, &mut events) {
                Ok(Some(reason)) => self.finish(sequence, reason, &mut events),
                Ok(None) => self.running.push(sequence),
                Err(error) => {
                    failures.push((sequence.request.id, error));
                    self.running.push(sequence);
                }
            }
        }
        for (prefill, &chunk) in self.prefilling.iter_mut().zip(&self.chunks) {
            let begin = prefill.done;
            prefill.done += chunk;
            if prefill.resumed.is_some() {
                self.counts.recomputed += chunk;
                continue;
            }
            if prefill.is_scored() {
                let places = (prefill.done + 1).min(prefill.tokens()).saturating_sub(begin + 1);
                match scored(&tokens, draw..draw + places) {
                    Some(found) => prefill.scored.extend(found),
                    None => {
                        let prompt_id = prefill.request.prompt_id.clone();
                        failures.push((prefill.request.id, SampleError::NotFinite { prompt_id, step: 0 }));
                    }
                }
                draw += places;
            }
            if prefill.done == prefill.tokens() {
                prefill.draw = Some(draw);
                draw += 1;
            }
        }
        while let Some(mut prefill) = self.pop_prefilled() {
            match prefill.resumed.take() {
                Some(mut resumed) => {
                    resumed.pages = prefill.pages;
                    self.run(resumed);
                }
                None => {
                    let request = prefill.request.id;
                    if prefill.is_scored() {
                        let tokens = std::mem::take(&mut prefill.scored);
                        events.push(RequestEvent::Prompt { request, tokens });
                    }
                    let first = prefill.draw.and_then(&tokens);
                    if let Err(error) = self.fork(prefill, first, text, &mut events) {
                        failures.push((request, error));
                    }
                }
            }
        }
        let mut failed = Vec::new();
        for (request, error) in failures {
            self.abort(request);
            // A request fails once, with its first error.
            if !failed.contains(&request) {
                failed.push(request);
                events.push(RequestEvent::Failed { request, error });
            }
        }
        events
    }

    /// Gives a candidate its next token, the one at `place`; returns why it is the last one, if it is.
    fn accept(
        &mut self,
        sequence: &mut Sequence,
        tokens: Option<RowTokens<'_>>,
        place: usize,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<Option<FinishReason>, SampleError> {
        let Some(RowTokens { picks, top, .. }) = tokens else {
            let prompt_id = sequence.request.prompt_id.clone();
            return Err(SampleError::NotFinite { prompt_id, step: sequence.ids.len() });
        };
        let pick = picks.get(place).copied();
        let pick = pick.ok_or_else(|| SampleError::internal("a row without a token drawn"))?;
        self.counts.tokens += 1;
        let (request, sample) = (sequence.request.id, sequence.sample);
        let top = top.to_vec();
        events.push(RequestEvent::Token { request, sample, id: pick.id, logprob: pick.logprob, top });
        sequence.accept(pick, text)
    }

    /// Lays out the tokens of the step: running rows first.
    pub(super) fn fill_batch(&mut self) {
        self.ids.clear();
        self.logit_rows.clear();
        self.chunks.clear();
        let mut scored_left = self.limits.scored_rows;
        for row in &self.running {
            self.logit_rows.push(self.ids.len());
            self.ids.extend(row.ids.last());
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

    fn pop_prefilled(&mut self) -> Option<Prefill> {
        let front = self.prefilling.front()?;
        if front.done == front.tokens() { self.prefilling.pop_front() } else { None }
    }

    /// K candidates with their first tokens; those that are not finished hold the prompt's pages.
    fn fork(
        &mut self,
        prefill: Prefill,
        tokens: Option<RowTokens<'_>>,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<(), SampleError> {
        let Prefill { request, pages, .. } = prefill;
        let forked = (0..request.samples).try_for_each(|sample| {
            let mut fork = Sequence::new(request.clone(), sample);
            match self.accept(&mut fork, tokens, sample, text, events)? {
                Some(reason) => self.finish(fork, reason, events),
                None => {
                    pages.iter().for_each(|&page| self.pool.retain(page));
                    fork.pages.clone_from(&pages);
                    self.ready.push_back(fork);
                }
            }
            Ok(())
        });
        self.release(&pages);
        forked
    }

    fn finish(&mut self, sequence: Sequence, reason: FinishReason, events: &mut Vec<RequestEvent>) {
        self.release(&sequence.pages);
        self.counts.finished += 1;
        events.push(RequestEvent::Finished { request: sequence.request.id, sample: sequence.finish(reason) });
    }
}

/// The given tokens of some draws with their log-probs; `None` where logits were not finite.
fn scored<'p>(
    tokens: &impl Fn(usize) -> Option<RowTokens<'p>>,
    draws: Range<usize>,
) -> Option<Vec<ScoredToken>> {
    let of_row = |draw| {
        let row = tokens(draw)?;
        Some(ScoredToken { token: row.scored?, top: row.top.to_vec() })
    };
    draws.map(of_row).collect()
}

/// Tokens of a prompt in pages that they fill, which its candidates hold together.
fn whole_pages(prompt_tokens: usize) -> usize {
    prompt_tokens / PAGE_TOKENS * PAGE_TOKENS
}
