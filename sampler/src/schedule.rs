//! Who runs in the next step.
//!
//! ```text
//! waiting ──admit──▶ prefilling ──fork──▶ ready ──place──▶ running ──▶ results
//!  requests  ◀─────────┤ in chunks     K candidates │        │ one token a step
//!                      ▲                            ▼        ▼
//!                      └───────bring back─────── turned out ◀┘
//! ```
//!
//! - Running rows come first, in the order of [`Key`], so that rows of one prompt stand next to each other; prefills share
//!   what they leave of the token budget, in order, cut into chunks.
//! - A prompt is prefilled once. Its K first tokens are drawn from its last position's logits, and the K forks hold
//!   its pages together; the last, partly filled page is copied for each but the last fork, which takes it over.
//! - A fork takes the place of a finished row in the very next step: one prompt is prefilled ahead.
//! - A row takes a page when it reaches it. When none is free, the youngest of all that hold pages is turned out, be it a
//!   prefill, a ready fork or a running row, and at last the row itself: the oldest can always go on, and the pool has the
//!   pages of the longest candidate. A prompt then waits again. A candidate keeps its tokens and comes back before any new
//!   prompt, oldest first: all but its last token are prefilled again, beside what a sibling still holds of the prompt.
//!   No token is drawn twice.
//! - So everything at work is older than everything turned out, and that older than every waiting prompt.
//!
//! Past 400 lines because these moves are one state machine, whose invariants hold between any two of them.

use std::collections::VecDeque;

use selfplay_model::{PAGE_TOKENS, PagedRow};
use selfplay_records::FinishReason;

use crate::limits::Limits;
use crate::results::{ShardResults, WholeShard};
use crate::sequence::{Key, Sequence};
use crate::{PagePool, Pick, PromptStream, SampleError, SampleRequest, StopRule, TextDecoder};

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

/// One step's work: running rows first, then chunks of prefills.
pub(crate) struct Batch<'s> {
    pub ids: &'s [u32],
    pub rows: Vec<PagedRow<'s>>,
    /// Indices into `ids`, one per entry of `draws`.
    pub logit_rows: &'s [usize],
    pub draws: Vec<Draw>,
}

/// What was done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tokens drawn.
    pub tokens: usize,
    /// Prefills, forks and rows that were turned out.
    pub preemptions: usize,
    /// Tokens that went through the model again because of that.
    pub recomputed: usize,
}

/// Tokens on their way into the cache: a prompt, or a candidate that comes back.
#[derive(Clone, Debug)]
struct Prefill {
    request: usize,
    /// Tokens before the next chunk; the cache has them, or a sibling before this one puts them there.
    done: usize,
    /// All that it needs; a candidate's also that of its next token.
    pages: Vec<u32>,
    back: Option<Sequence>,
}

impl Prefill {
    fn key(&self) -> Key {
        // While a prompt is prefilled there are no candidates of it.
        Key { request: self.request, sample: self.back.as_ref().map_or(0, |back| back.sample) }
    }
}

/// The state of one call.
pub(crate) struct Schedule<'r> {
    requests: Vec<&'r SampleRequest>,
    limits: Limits,
    pool: PagePool,
    next_request: usize,
    prefilling: VecDeque<Prefill>,
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// The oldest last, since it comes back first.
    turned_out: Vec<Sequence>,
    /// Tokens that the first prefills have in this step.
    chunks: Vec<usize>,
    ids: Vec<u32>,
    logit_rows: Vec<usize>,
    results: ShardResults,
    counts: Counts,
}

impl<'r> Schedule<'r> {
    pub(crate) fn new(shards: &[&'r [SampleRequest]], limits: Limits, pages: usize) -> Self {
        Self {
            requests: shards.iter().flat_map(|shard| shard.iter()).collect(),
            limits,
            pool: PagePool::new(pages),
            next_request: 0,
            prefilling: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            turned_out: Vec::new(),
            chunks: Vec::new(),
            ids: Vec::new(),
            logit_rows: Vec::new(),
            results: ShardResults::new(shards.iter().map(|shard| shard.len()), limits.samples),
            counts: Counts::default(),
        }
    }

    /// Candidates that have ended.
    pub(crate) fn finished(&self) -> usize {
        self.results.finished()
    }

    /// Candidates in the batch.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether every candidate has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.results.finished() == self.results.total()
    }

    /// The prompt of a draw.
    pub(crate) fn prompt_id(&self, request: usize) -> &'r str {
        &self.requests[request].prompt_id
    }

    /// A shard whose candidates have all ended, once.
    pub(crate) fn take_whole_shard(&mut self) -> Result<Option<WholeShard>, SampleError> {
        self.results.take_whole()
    }

    /// Decides the next step; what it returns is to be copied, in order, before the step runs.
    pub(crate) fn next_step(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        // Rows that run go first: what they need is not to be given away.
        self.grow_rows()?;
        let copies = self.place_forks()?;
        self.admit();
        self.fill_batch();
        if self.ids.is_empty() {
            return Err(SampleError::internal("candidates are left, but none can go on"));
        }
        Ok(copies)
    }

    /// The step that was decided.
    pub(crate) fn batch(&self) -> Batch<'_> {
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
            let shared = whole_pages(self.requests[prefill.request].prompt_ids.len());
            rows.push(PagedRow { new_tokens, context: prefill.done, pages: &prefill.pages, shared });
            if prefill.back.is_none() && prefill.done + new_tokens == self.tokens_of(prefill) {
                let (request, samples) = (prefill.request, self.limits.samples);
                draws.push(Draw { request, stream: self.stream(request), first_sample: 0, samples, step: 0 });
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
        let rows = std::mem::take(&mut self.running);
        let mut draw = rows.len();
        self.running.reserve(draw);
        for (row, mut sequence) in rows.into_iter().enumerate() {
            self.counts.tokens += 1;
            match sequence.accept(only(picks(row))?, stop, text)? {
                Some(reason) => self.finish(sequence, reason)?,
                None => self.running.push(sequence),
            }
        }
        for (prefill, &chunk) in self.prefilling.iter_mut().zip(&self.chunks) {
            prefill.done += chunk;
            if prefill.back.is_some() {
                self.counts.recomputed += chunk;
            }
        }
        while let Some(mut prefill) = self.pop_prefilled() {
            match prefill.back.take() {
                Some(mut back) => {
                    back.pages = prefill.pages;
                    self.run(back);
                }
                None => {
                    self.fork(prefill, picks(draw), stop, text)?;
                    draw += 1;
                }
            }
        }
        Ok(())
    }

    fn stream(&self, request: usize) -> PromptStream {
        PromptStream::new(self.limits.seed, self.limits.iteration, &self.requests[request].prompt_id)
    }

    /// Tokens that a prefill puts into the cache.
    fn tokens_of(&self, prefill: &Prefill) -> usize {
        match &prefill.back {
            Some(back) => back.context(),
            None => self.requests[prefill.request].prompt_ids.len(),
        }
    }

    /// Candidates that come back: each has its place among the rows already.
    fn coming_back(&self) -> usize {
        self.prefilling.iter().filter(|prefill| prefill.back.is_some()).count()
    }

    /// A row whose pages are full gets one more, the oldest row first.
    fn grow_rows(&mut self) -> Result<(), SampleError> {
        let mut row = 0;
        while row < self.running.len() {
            if self.running[row].needs_page() {
                // A row that is turned out for its own page was the last one.
                let Some(page) = self.take_page_for(self.running[row].key())? else { break };
                self.running[row].pages.push(page);
            }
            row += 1;
        }
        Ok(())
    }

    /// A page, for which younger ones are turned out where none is free; `None` when `key` itself was the youngest, and
    /// has been turned out.
    fn take_page_for(&mut self, key: Key) -> Result<Option<u32>, SampleError> {
        loop {
            if let Some(page) = self.pool.take() {
                return Ok(Some(page));
            }
            if self.turn_out_youngest()? == key {
                return Ok(None);
            }
        }
    }

    /// Turns out the last of all that hold pages. It frees those that nobody else holds, which may be none.
    fn turn_out_youngest(&mut self) -> Result<Key, SampleError> {
        let prefill = self.prefilling.back().map(Prefill::key);
        let ready = self.ready.back().map(Sequence::key);
        let running = self.running.last().map(Sequence::key);
        let Some(youngest) = prefill.max(ready).max(running) else {
            return Err(SampleError::internal("no cache page is free, and nobody holds one"));
        };
        let sequence = if prefill == Some(youngest) {
            self.prefilling.pop_back().and_then(|prefill| {
                self.release(&prefill.pages);
                if prefill.back.is_none() {
                    self.next_request = prefill.request;
                    self.counts.recomputed += prefill.done;
                }
                prefill.back
            })
        } else if ready == Some(youngest) {
            self.ready.pop_back()
        } else {
            self.running.pop()
        };
        self.counts.preemptions += 1;
        if let Some(mut sequence) = sequence {
            self.release(&sequence.pages);
            sequence.pages.clear();
            self.turned_out.push(sequence);
        }
        Ok(youngest)
    }

    fn release(&mut self, pages: &[u32]) {
        pages.iter().for_each(|&page| self.pool.release(page));
    }

    /// Among the running rows, at its place in their order.
    fn run(&mut self, sequence: Sequence) {
        let place = self.running.partition_point(|row| row.key() < sequence.key());
        self.running.insert(place, sequence);
    }

    /// Forks run while there are places for them, each with the page that its first token goes to.
    fn place_forks(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        let (mut copies, coming_back) = (Vec::new(), self.coming_back());
        while self.running.len() + coming_back < self.limits.rows {
            let waiting = self.ready.len();
            let Some(fork) = self.ready.front_mut() else { break };
            // The prompt's last page, where it is not full, becomes the fork's own: copy on write.
            let is_full = fork.prompt_tokens.is_multiple_of(PAGE_TOKENS);
            let last = fork.pages.last_mut().filter(|_| !is_full);
            let takes_over = last.as_ref().is_some_and(|last| self.pool.is_writable(**last));
            if !takes_over {
                match (self.pool.take(), last) {
                    (Some(to), Some(last)) => {
                        self.pool.release(*last);
                        copies.push(PageCopy { from: *last, to });
                        *last = to;
                    }
                    (Some(page), None) => fork.pages.push(page),
                    // To turn out its own siblings would cost more than to wait for a page, while anything goes on.
                    (None, _) if !self.running.is_empty() || !self.prefilling.is_empty() => break,
                    (None, _) if waiting > 1 => {
                        self.turn_out_youngest()?;
                        continue;
                    }
                    (None, _) => return Err(SampleError::internal("a fork alone has too few cache pages")),
                }
            }
            if let Some(fork) = self.ready.pop_front() {
                self.run(fork);
            }
        }
        Ok(copies)
    }

    /// Candidates that were turned out come back, then new prompts begin, while there are places and pages.
    ///
    /// Beside what they take, as many pages stay free as rows may each take next: else the next step or two would turn out
    /// what has just begun, and its work would be lost. Nothing stays free for an empty batch, so that it gets going.
    fn admit(&mut self) {
        if !self.ready.is_empty() && self.running.len() + self.coming_back() < self.limits.rows {
            // A fork waits for a page.
            return;
        }
        let mut spare = self.pages_soon();
        while let Some(page_need) = self.bring_back(spare) {
            spare += page_need;
        }
        while self.turned_out.is_empty()
            && let Some(page_need) = self.admit_prompt(spare)
        {
            spare += page_need;
        }
    }

    /// How many pages those that are at work may take next.
    fn pages_soon(&self) -> usize {
        let rows = self.running.iter().filter(|row| row.may_need_page()).count();
        let prefills = self.prefilling.iter().map(|prefill| match &prefill.back {
            Some(_) => 1,
            None => self.limits.samples,
        });
        rows + self.ready.len() + prefills.sum::<usize>()
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.ready.is_empty() && self.prefilling.is_empty()
    }

    fn take_pages(&mut self, pages: usize, spare: usize) -> Option<Vec<u32>> {
        let spare = if self.is_idle() { 0 } else { spare };
        let fits = self.pool.free() >= pages.saturating_add(spare);
        // `collect` can't find fewer than are free.
        fits.then(|| (0..pages).filter_map(|_| self.pool.take()).collect())
    }

    /// Begins to prefill the oldest candidate that was turned out. Returns how many more pages it may take next; `None`
    /// when there is no such candidate, or no place or page for it.
    fn bring_back(&mut self, spare: usize) -> Option<usize> {
        if self.running.len() + self.coming_back() + self.ready.len() >= self.limits.rows {
            return None;
        }
        let oldest = self.turned_out.last()?;
        let shared = self.prompt_pages_of_a_sibling(oldest.request).to_vec();
        let tokens = oldest.context();
        let is_all = shared.len() * PAGE_TOKENS == tokens;
        if is_all
            && self.prefilling.iter().any(|other| other.request == oldest.request && other.done < tokens)
        {
            // Nothing is left to prefill, but what it shares is yet to be computed: it would run too early.
            return None;
        }
        let own = self.take_pages(tokens / PAGE_TOKENS + 1 - shared.len(), spare + 1)?;
        let mut back = self.turned_out.pop()?;
        shared.iter().for_each(|&page| self.pool.retain(page));
        let done = shared.len() * PAGE_TOKENS;
        let pages = [shared, own].concat();
        if is_all {
            back.pages = pages;
            let page_need = usize::from(back.may_need_page());
            self.run(back);
            return Some(page_need);
        }
        self.prefilling.push_back(Prefill { request: back.request, done, pages, back: Some(back) });
        Some(1)
    }

    /// The prompt's full pages, where another of its candidates holds them; empty where none does.
    ///
    /// A candidate that comes back may not have computed them yet. It stands before this one in the queue and has its
    /// tokens in an earlier step, or earlier in the same one, and of the two it is not the first to be turned out.
    fn prompt_pages_of_a_sibling(&self, request: usize) -> &[u32] {
        let first = self.running.partition_point(|row| row.request < request);
        let running = self.running.get(first).filter(|row| row.request == request).map(|row| &row.pages);
        let ready = || self.ready.iter().find(|fork| fork.request == request).map(|fork| &fork.pages);
        let coming =
            || self.prefilling.iter().find(|other| other.request == request).map(|other| &other.pages);
        let whole = self.requests[request].prompt_ids.len() / PAGE_TOKENS;
        running.or_else(ready).or_else(coming).map_or(&[], |pages| &pages[..whole])
    }

    /// Begins to prefill the next prompt. Returns as [`Self::bring_back`] does.
    fn admit_prompt(&mut self, spare: usize) -> Option<usize> {
        let tokens = self.requests.get(self.next_request)?.prompt_ids.len();
        let samples = self.limits.samples;
        let back = self.coming_back();
        let prompts = self.prefilling.len() - back;
        if self.running.len() + self.ready.len() + back + prompts * samples > self.limits.rows {
            return None;
        }
        let page_need = if self.limits.private_pages(tokens) > 0 { samples } else { 0 };
        let pages = self.take_pages(tokens.div_ceil(PAGE_TOKENS), spare + page_need)?;
        self.prefilling.push_back(Prefill { request: self.next_request, done: 0, pages, back: None });
        self.next_request += 1;
        Some(page_need)
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
            let tokens = self.tokens_of(prefill);
            let end = tokens.min(prefill.done + left);
            let prompt_ids = &self.requests[prefill.request].prompt_ids;
            match &prefill.back {
                Some(back) => {
                    let parts = back.cached_ids(prompt_ids, prefill.done, end);
                    parts.iter().for_each(|part| self.ids.extend_from_slice(part));
                }
                None => self.ids.extend_from_slice(&prompt_ids[prefill.done..end]),
            }
            self.chunks.push(end - prefill.done);
            if end == tokens && prefill.back.is_none() {
                self.logit_rows.push(self.ids.len() - 1);
            }
        }
    }

    fn pop_prefilled(&mut self) -> Option<Prefill> {
        let front = self.prefilling.front()?;
        if front.done == self.tokens_of(front) { self.prefilling.pop_front() } else { None }
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
        for (sample, &pick) in picks.iter().enumerate() {
            let mut fork = Sequence::new(prefill.request, sample, stream, prompt_tokens, limit);
            self.counts.tokens += 1;
            match fork.accept(pick, stop, text)? {
                Some(reason) => self.finish(fork, reason)?,
                None => {
                    prefill.pages.iter().for_each(|&page| self.pool.retain(page));
                    fork.pages.clone_from(&prefill.pages);
                    self.ready.push_back(fork);
                }
            }
        }
        self.release(&prefill.pages);
        Ok(())
    }

    fn finish(&mut self, sequence: Sequence, reason: FinishReason) -> Result<(), SampleError> {
        self.release(&sequence.pages);
        self.results.put(sequence.request, sequence.finish(reason))
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
