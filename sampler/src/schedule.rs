//! Who runs in the next step.
//!
//! ```text
//! waiting ──admit──▶ prefilling ──fork──▶ ready ──place──▶ running ──▶ results
//!  requests           in chunks       K candidates         one token a step
//! ```
//!
//! - Running rows come first; prompts share what they leave of the token budget, in order, cut into chunks.
//! - A prompt is prefilled once. Its K first tokens are drawn from its last position's logits, and the K forks hold
//!   its pages together; the last, partly filled page is copied for each but the last fork, which takes it over.
//! - A fork takes the place of a finished row in the very next step: one prompt is prefilled ahead.
//! - Admission is by reservation: a prompt with its pages and those of its first fork, every further fork with the
//!   pages of its longest course. A fork without pages waits and lets those go ahead whose pages were promised, so
//!   that there is always somebody to go on; new prompts wait behind it.

use std::collections::VecDeque;

use selfplay_model::{PAGE_TOKENS, PagedRow};
use selfplay_records::FinishReason;

use crate::sequence::{Sequence, private_pages};
use crate::{
    PagePool, Pick, PromptStream, Sample, SampleError, SampleRequest, SampleSettings, StopRule, TextDecoder,
};

/// What the schedule may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    rows: usize,
    token_budget: usize,
    samples: usize,
    max_new_tokens: usize,
    max_positions: usize,
    seed: u64,
    iteration: u64,
}

impl Limits {
    pub(crate) fn new(settings: &SampleSettings, max_positions: usize) -> Self {
        Self {
            // Every running row has a token in every step.
            rows: settings.max_batch_rows.min(settings.token_budget),
            token_budget: settings.token_budget,
            samples: settings.num_samples,
            max_new_tokens: settings.max_new_tokens,
            max_positions,
            seed: settings.seed,
            iteration: settings.iteration,
        }
    }

    /// Tokens that a prompt's response may have.
    fn response_limit(&self, prompt_tokens: usize) -> usize {
        self.max_new_tokens.min(self.max_positions.saturating_sub(prompt_tokens))
    }

    /// Pages for a full batch of the greatest requests, at most `affordable`, at least one candidate's.
    pub(crate) fn pool_pages(&self, requests: &[SampleRequest], affordable: usize) -> usize {
        let (mut prompt, mut private, mut one, mut all) = (0usize, 0usize, 0usize, 0usize);
        for request in requests {
            let tokens = request.prompt_ids.len();
            let (shared, own) =
                (tokens.div_ceil(PAGE_TOKENS), private_pages(tokens, self.response_limit(tokens)));
            prompt = prompt.max(shared);
            private = private.max(own);
            one = one.max(shared + own);
            all = all.saturating_add(shared.saturating_add(own.saturating_mul(self.samples)));
        }
        // Every row may belong to another prompt, and one prompt is ahead of them.
        let batch = (prompt + private).saturating_mul(self.rows.saturating_add(1));
        batch.min(all).min(affordable).max(one)
    }
}

/// A page's content that goes to another page before the step runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub from: u32,
    pub to: u32,
}

/// Which tokens are drawn from one row of logits: one for a running row, K for a prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Draw {
    pub request: usize,
    pub stream: PromptStream,
    pub first_sample: usize,
    pub samples: usize,
    pub step: usize,
}

/// One step's work: running rows first, then chunks of prompts.
pub(crate) struct Batch<'s> {
    pub ids: &'s [u32],
    pub rows: Vec<PagedRow<'s>>,
    /// Indices into `ids`, one per entry of `draws`.
    pub logit_rows: &'s [usize],
    pub draws: Vec<Draw>,
}

/// A prompt on its way into the cache.
#[derive(Clone, Debug)]
struct Prefill {
    request: usize,
    done: usize,
    pages: Vec<u32>,
    /// Pages reserved for its first fork.
    promised: usize,
}

/// The state of one call.
pub(crate) struct Schedule<'r> {
    requests: &'r [SampleRequest],
    limits: Limits,
    pool: PagePool,
    next_request: usize,
    prefilling: VecDeque<Prefill>,
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Tokens that the first prefills have in this step.
    chunks: Vec<usize>,
    ids: Vec<u32>,
    logit_rows: Vec<usize>,
    results: Vec<Vec<Option<Sample>>>,
    tokens: usize,
    finished: usize,
}

impl<'r> Schedule<'r> {
    pub(crate) fn new(requests: &'r [SampleRequest], limits: Limits, pages: usize) -> Self {
        Self {
            requests,
            limits,
            pool: PagePool::new(pages),
            next_request: 0,
            prefilling: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            chunks: Vec::new(),
            ids: Vec::new(),
            logit_rows: Vec::new(),
            results: vec![vec![None; limits.samples]; requests.len()],
            tokens: 0,
            finished: 0,
        }
    }

    /// Candidates in all.
    pub(crate) fn total(&self) -> usize {
        self.requests.len() * self.limits.samples
    }

    /// Candidates that have ended.
    pub(crate) fn finished(&self) -> usize {
        self.finished
    }

    /// Candidates in the batch.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// Tokens drawn so far.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// Whether every candidate has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.finished == self.total()
    }

    /// Pages that nobody holds.
    #[cfg(test)]
    pub(crate) fn pages_available(&self) -> usize {
        self.pool.available()
    }

    /// Decides the next step; what it returns is to be copied, in order, before the step runs.
    pub(crate) fn next_step(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        let copies = self.place_forks()?;
        self.admit_prompts()?;
        self.grow_rows()?;
        self.fill_batch();
        if self.ids.is_empty() {
            return Err(SampleError::internal("candidates are left, but none can go on"));
        }
        Ok(copies)
    }

    /// The step that was decided.
    pub(crate) fn batch(&self) -> Batch<'_> {
        let samples = self.limits.samples;
        let row_of = |row: &'_ Sequence| Draw {
            request: row.request,
            stream: row.stream,
            first_sample: row.sample,
            samples: 1,
            step: row.ids.len(),
        };
        let mut draws: Vec<Draw> = self.running.iter().map(row_of).collect();
        let mut rows: Vec<PagedRow<'_>> = Vec::with_capacity(self.running.len() + self.chunks.len());
        for row in &self.running {
            rows.push(PagedRow {
                new_tokens: 1,
                context: row.context(),
                pages: &row.pages,
                shared: whole_pages(row.prompt_tokens),
            });
        }
        for (prefill, &new_tokens) in self.prefilling.iter().zip(&self.chunks) {
            let prompt_tokens = self.requests[prefill.request].prompt_ids.len();
            let shared = whole_pages(prompt_tokens);
            rows.push(PagedRow { new_tokens, context: prefill.done, pages: &prefill.pages, shared });
            if prefill.done + new_tokens == prompt_tokens {
                let stream = self.stream(prefill.request);
                draws.push(Draw { request: prefill.request, stream, first_sample: 0, samples, step: 0 });
            }
        }
        Batch { ids: &self.ids, rows, logit_rows: &self.logit_rows, draws }
    }

    /// Takes what was drawn: `picks` gives the tokens of the batch's n-th draw.
    pub(crate) fn postprocess<'p>(
        &mut self,
        picks: impl Fn(usize) -> &'p [Pick],
        stop: &StopRule,
        text: &dyn TextDecoder,
    ) -> Result<(), SampleError> {
        let rows = self.running.len();
        // From the last to the first, so that the row which takes a finished one's index has had its turn.
        for row in (0..rows).rev() {
            let pick = only(picks(row))?;
            self.tokens += 1;
            if let Some(reason) = self.running[row].accept(pick, stop, text)? {
                let sequence = self.running.swap_remove(row);
                self.finish(sequence, reason);
            }
        }
        for (prefill, &chunk) in self.prefilling.iter_mut().zip(&self.chunks) {
            prefill.done += chunk;
        }
        let mut draw = rows;
        while let Some(prefill) = self.pop_prefilled() {
            self.fork(prefill, picks(draw), stop, text)?;
            draw += 1;
        }
        Ok(())
    }

    /// The results, in the order of requests and samples.
    pub(crate) fn into_results(self) -> Result<Vec<Vec<Sample>>, SampleError> {
        let rows = self.results.into_iter().map(|row| row.into_iter().collect::<Option<Vec<Sample>>>());
        rows.collect::<Option<_>>()
            .ok_or_else(|| SampleError::internal("a candidate was left without a result"))
    }

    fn stream(&self, request: usize) -> PromptStream {
        PromptStream::new(self.limits.seed, self.limits.iteration, &self.requests[request].prompt_id)
    }

    fn place_forks(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        let mut copies = Vec::new();
        let mut place = 0;
        while self.running.len() < self.limits.rows && place < self.ready.len() {
            let fork = &mut self.ready[place];
            if !fork.promised {
                let pages = fork.private_pages();
                if !self.pool.reserve(pages) {
                    place += 1;
                    continue;
                }
                fork.reserved = pages;
            }
            if let Some(mut fork) = self.ready.remove(place) {
                copies.extend(self.own_last_page(&mut fork)?);
                self.running.push(fork);
            }
        }
        Ok(copies)
    }

    /// Copy on write: the prompt's last page, where it is not full, becomes the fork's own.
    fn own_last_page(&mut self, fork: &mut Sequence) -> Result<Option<PageCopy>, SampleError> {
        let is_full = fork.prompt_tokens.is_multiple_of(PAGE_TOKENS);
        let Some(last) = fork.pages.last_mut().filter(|_| !is_full) else {
            return Ok(None);
        };
        fork.reserved = fork.reserved.saturating_sub(1);
        if self.pool.is_writable(*last) {
            self.pool.unreserve(1);
            return Ok(None);
        }
        let copy = PageCopy { from: *last, to: self.pool.take_reserved()? };
        self.pool.release(copy.from);
        *last = copy.to;
        Ok(Some(copy))
    }

    fn admit_prompts(&mut self) -> Result<(), SampleError> {
        let fork_waits_for_pages = !self.ready.is_empty() && self.running.len() < self.limits.rows;
        while let Some(request) = self.requests.get(self.next_request) {
            let coming = self.running.len() + self.ready.len() + self.prefilling.len() * self.limits.samples;
            if fork_waits_for_pages || coming > self.limits.rows {
                break;
            }
            let tokens = request.prompt_ids.len();
            let shared = tokens.div_ceil(PAGE_TOKENS);
            let promised = private_pages(tokens, self.limits.response_limit(tokens));
            if !self.pool.reserve(shared + promised) {
                break;
            }
            let pages = (0..shared).map(|_| self.pool.take_reserved()).collect::<Result<_, _>>()?;
            self.prefilling.push_back(Prefill { request: self.next_request, done: 0, pages, promised });
            self.next_request += 1;
        }
        Ok(())
    }

    /// A row whose pages are full gets one more of those reserved for it.
    fn grow_rows(&mut self) -> Result<(), SampleError> {
        for row in &mut self.running {
            if row.pages.len() * PAGE_TOKENS <= row.context() {
                row.pages.push(self.pool.take_reserved()?);
                row.reserved = row.reserved.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn fill_batch(&mut self) {
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
            let rest = &self.requests[prefill.request].prompt_ids[prefill.done..];
            let chunk = &rest[..rest.len().min(left)];
            self.ids.extend_from_slice(chunk);
            self.chunks.push(chunk.len());
            if chunk.len() == rest.len() {
                self.logit_rows.push(self.ids.len() - 1);
            }
        }
    }

    fn pop_prefilled(&mut self) -> Option<Prefill> {
        let front = self.prefilling.front()?;
        let is_whole = front.done == self.requests[front.request].prompt_ids.len();
        if is_whole { self.prefilling.pop_front() } else { None }
    }

    /// K candidates with their first tokens; those that go on hold the prompt's pages.
    fn fork(
        &mut self,
        prefill: Prefill,
        picks: &[Pick],
        stop: &StopRule,
        text: &dyn TextDecoder,
    ) -> Result<(), SampleError> {
        let prompt_tokens = self.requests[prefill.request].prompt_ids.len();
        let limit = self.limits.response_limit(prompt_tokens);
        let stream = self.stream(prefill.request);
        let mut promised = Some(prefill.promised);
        for (sample, &pick) in picks.iter().enumerate() {
            let mut fork = Sequence::new(prefill.request, sample, stream, prompt_tokens, limit);
            self.tokens += 1;
            match fork.accept(pick, stop, text)? {
                Some(reason) => self.finish(fork, reason),
                None => {
                    prefill.pages.iter().for_each(|&page| self.pool.retain(page));
                    fork.pages.clone_from(&prefill.pages);
                    if let Some(pages) = promised.take() {
                        fork.promised = true;
                        fork.reserved = pages;
                    }
                    self.ready.push_back(fork);
                }
            }
        }
        self.pool.unreserve(promised.unwrap_or(0));
        prefill.pages.iter().for_each(|&page| self.pool.release(page));
        Ok(())
    }

    fn finish(&mut self, sequence: Sequence, reason: FinishReason) {
        sequence.pages.iter().for_each(|&page| self.pool.release(page));
        self.pool.unreserve(sequence.reserved);
        self.finished += 1;
        let (request, sample) = (sequence.request, sequence.sample);
        self.results[request][sample] = Some(sequence.finish(reason));
    }
}

/// Tokens of a prompt in pages that they fill, which its candidates hold together.
fn whole_pages(prompt_tokens: usize) -> usize {
    prompt_tokens / PAGE_TOKENS * PAGE_TOKENS
}

fn only(picks: &[Pick]) -> Result<Pick, SampleError> {
    picks.first().copied().ok_or_else(|| SampleError::internal("a running row without a token drawn"))
}

#[cfg(test)]
mod tests;
