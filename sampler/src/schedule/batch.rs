//! A step's batch, and the processing of the tokens that are drawn from it.

use selfplay_model::{PAGE_TOKENS, PagedRow};
use selfplay_records::FinishReason;

use super::sequence::Sequence;
use super::{ActiveRequest, Prefill, Schedule};
use crate::{RequestEvent, SampleError, SampledToken, TextDecoder};

/// Which tokens are drawn from one row of logits: one for a running row, K for a prompt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogitsDraw<'s> {
    pub request: &'s ActiveRequest,
    pub first_sample: usize,
    pub samples: usize,
    pub step: usize,
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
            draws.push(LogitsDraw { request, first_sample: row.sample, samples: 1, step: row.ids.len() });
        }
        for (prefill, &new_tokens) in self.prefilling.iter().zip(&self.chunks) {
            let request = &prefill.request;
            let shared = whole_pages(request.tokens());
            rows.push(PagedRow { new_tokens, context: prefill.done, pages: &prefill.pages, shared });
            if prefill.resumed.is_none() && prefill.done + new_tokens == prefill.tokens() {
                draws.push(LogitsDraw { request, first_sample: 0, samples: request.samples, step: 0 });
            }
        }
        Batch { ids: &self.ids, rows, logit_rows: &self.logit_rows, draws }
    }

    /// Processes the drawn tokens: `picks` gives the tokens of the batch's n-th draw, or `None` where its logits were not finite.
    pub(crate) fn postprocess<'p>(
        &mut self,
        picks: impl Fn(usize) -> Option<&'p [SampledToken]>,
        text: &dyn TextDecoder,
    ) -> Vec<RequestEvent> {
        let rows = std::mem::take(&mut self.running);
        let mut draw = rows.len();
        self.running.reserve(draw);
        let (mut events, mut failures) = (Vec::with_capacity(draw), Vec::new());
        for (row, mut sequence) in rows.into_iter().enumerate() {
            match self.accept(&mut sequence, picks(row), 0, text, &mut events) {
                Ok(Some(reason)) => self.finish(sequence, reason, &mut events),
                Ok(None) => self.running.push(sequence),
                Err(error) => {
                    failures.push((sequence.request.id, error));
                    self.running.push(sequence);
                }
            }
        }
        for (prefill, &chunk) in self.prefilling.iter_mut().zip(&self.chunks) {
            prefill.done += chunk;
            if prefill.resumed.is_some() {
                self.counts.recomputed += chunk;
            }
        }
        while let Some(mut prefill) = self.pop_prefilled() {
            match prefill.resumed.take() {
                Some(mut resumed) => {
                    resumed.pages = prefill.pages;
                    self.run(resumed);
                }
                None => {
                    let id = prefill.request.id;
                    if let Err(error) = self.fork(prefill, picks(draw), text, &mut events) {
                        failures.push((id, error));
                    }
                    draw += 1;
                }
            }
        }
        let mut last = None;
        for (request, error) in failures {
            self.abort(request);
            // A request fails once, with its first error.
            if last.replace(request) != Some(request) {
                events.push(RequestEvent::Failed { request, error });
            }
        }
        events
    }

    /// Gives a candidate its next token, `picks[place]`; returns why it is the last one, if it is.
    fn accept(
        &mut self,
        sequence: &mut Sequence,
        picks: Option<&[SampledToken]>,
        place: usize,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<Option<FinishReason>, SampleError> {
        let Some(picks) = picks else {
            let prompt_id = sequence.request.prompt_id.clone();
            return Err(SampleError::NotFinite { prompt_id, step: sequence.ids.len() });
        };
        let pick = picks.get(place).copied();
        let pick = pick.ok_or_else(|| SampleError::internal("a row without a token drawn"))?;
        self.counts.tokens += 1;
        let (request, sample) = (sequence.request.id, sequence.sample);
        events.push(RequestEvent::Token { request, sample, id: pick.id, logprob: pick.logprob });
        sequence.accept(pick, text)
    }

    /// Lays out the tokens of the step: running rows first.
    pub(super) fn fill_batch(&mut self) {
        self.ids.clear();
        self.logit_rows.clear();
        self.chunks.clear();
        for row in &self.running {
            self.logit_rows.push(self.ids.len());
            self.ids.extend(row.ids.last());
        }
        for prefill in &self.prefilling {
            let left = self.limits.token_budget - self.ids.len();
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
            self.chunks.push(end - prefill.done);
            if end == tokens && prefill.resumed.is_none() {
                self.logit_rows.push(self.ids.len() - 1);
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
        picks: Option<&[SampledToken]>,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<(), SampleError> {
        let Prefill { request, pages, .. } = prefill;
        let forked = (0..request.samples).try_for_each(|sample| {
            let mut fork = Sequence::new(request.clone(), sample);
            match self.accept(&mut fork, picks, sample, text, events)? {
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

/// Tokens of a prompt in pages that they fill, which its candidates hold together.
fn whole_pages(prompt_tokens: usize) -> usize {
    prompt_tokens / PAGE_TOKENS * PAGE_TOKENS
}
