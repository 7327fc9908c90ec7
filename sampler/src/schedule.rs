//! The state machine that decides which rows run in the next step.
//!
//! ```text
//! waiting ──admit──▶ prefilling ──fork──▶ ready ──place──▶ running ──▶ finished
//!  requests  ◀─────────┤ in chunks     K candidates │        │ one token a step
//!                      ▲                            ▼        ▼
//!                      └────────resume──────── preempted ◀───┘
//! ```
//!
//! - Running rows come first, in the order of [`SequenceKey`], so that rows of one prompt stand next to each other; prefills share
//!   what they leave of the token budget, in order, cut into chunks.
//! - A prompt is prefilled once. Its K first tokens are drawn from its last position's logits, and the K forks hold
//!   its pages together; the last, partly filled page is copied for each but the last fork, which takes it over.
//! - A fork takes the place of a finished row in the very next step: one prompt is prefilled ahead.
//! - A row takes a page when it reaches it. When none is free, the youngest holder of pages is preempted: a prefill, a ready
//!   fork or a running row, in the end the asking row. The oldest can always continue, since the pool has the pages of the
//!   longest candidate. A preempted prompt waits again. A preempted candidate keeps its tokens and is resumed before any new
//!   prompt begins, oldest first: all but its last token are prefilled again, beside what a sibling still holds of the prompt.
//!   No token is drawn twice.
//! - So all that hold pages are older than all that are preempted, and those older than every waiting prompt.
//! - A step may be decided before the tokens of the one before it are known: a candidate whose next token is awaited goes on as
//!   if that did not end it. If it does, what the later step drew for it is dropped. Where a page is missing, the tokens are
//!   known first: nobody is preempted for a candidate that may have ended.
//! - Requests come at any time and wait behind all others. An aborted one is taken out of every list, and its pages are
//!   free at once; since candidates share pages with their siblings alone, no other request is affected.
//!
//! - An open pool grows before a page is missing (`growth.rs`): whatever is decided is decided as if it had all its pages from
//!   the start.
//!
//! The transitions are in `admission.rs`, `preemption.rs`, `batch.rs` and `tokens.rs`; the invariants hold between any two of them.

mod active_request;
mod admission;
mod batch;
mod growth;
mod limits;
mod pages;
mod preemption;
mod sequence;
mod tokens;

use std::collections::VecDeque;
use std::sync::Arc;

use selfplay_model::{PAGE_TOKENS, PageCopy};

pub(crate) use active_request::ActiveRequest;
pub(crate) use batch::LogitsDraw;
pub(crate) use limits::{PageNeed, ScheduleLimits};
use pages::PagePool;
use sequence::{Sequence, SequenceKey};
pub(crate) use tokens::BegunStep;

use crate::{FedToken, RequestId, SampleError, ScoredToken};

/// What an engine has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tokens drawn.
    pub tokens: usize,
    /// Candidates that have ended.
    pub finished: usize,
    /// How often a prompt or candidate gave its cache pages back to an older one.
    pub preemptions: usize,
    /// Tokens that went through the model again because of that.
    pub recomputed: usize,
    /// Tokens that a step drew for candidates that were gone when it was read: the step before had ended them.
    pub dropped: usize,
}

/// Tokens that are being computed into the cache: a prompt's, or those of a candidate that is resumed.
#[derive(Clone, Debug)]
struct Prefill {
    request: Arc<ActiveRequest>,
    /// Tokens before the next chunk; the cache has them, or a sibling before this one puts them there.
    done: usize,
    /// Pages for all its tokens; for a resumed response also for the next token.
    pages: Vec<u32>,
    resumed: Option<Sequence>,
    /// Of the prompt's tokens from the second on, where the request wants them.
    scored: Vec<ScoredToken>,
}

impl Prefill {
    fn key(&self) -> SequenceKey {
        // While a prompt is prefilled there are no candidates of it.
        SequenceKey {
            request: self.request.id,
            sample: self.resumed.as_ref().map_or(0, |resumed| resumed.sample),
        }
    }

    /// Tokens that it puts into the cache.
    fn tokens(&self) -> usize {
        match &self.resumed {
            Some(resumed) => resumed.context(),
            None => self.request.tokens(),
        }
    }

    /// Whether each of its tokens has a row of logits.
    fn is_scored(&self) -> bool {
        self.resumed.is_none() && self.request.logprobs.prompt
    }

    /// Places in the batch, and next pages, that it may come to need.
    fn rows(&self) -> usize {
        if self.resumed.is_some() { 1 } else { self.request.samples }
    }
}

/// All requests of an engine.
pub(crate) struct Schedule {
    limits: ScheduleLimits,
    pool: PagePool,
    /// Whether the pool may grow.
    is_open: bool,
    /// The oldest first; younger than all others.
    waiting: VecDeque<Arc<ActiveRequest>>,
    prefilling: VecDeque<Prefill>,
    ready: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Those whose last token is awaited; they hold no pages.
    ending: Vec<Sequence>,
    /// The oldest last, since it is resumed first.
    preempted: Vec<Sequence>,
    /// Tokens that the first prefills have in this step.
    chunks: Vec<usize>,
    ids: Vec<u32>,
    fed: Vec<FedToken>,
    logit_rows: Vec<usize>,
    counts: Counts,
}

impl Schedule {
    /// A schedule without requests or pages.
    pub(crate) fn new(limits: ScheduleLimits) -> Self {
        Self {
            limits,
            pool: PagePool::new(0),
            is_open: true,
            waiting: VecDeque::new(),
            prefilling: VecDeque::new(),
            ready: VecDeque::new(),
            running: Vec::new(),
            ending: Vec::new(),
            preempted: Vec::new(),
            chunks: Vec::new(),
            ids: Vec::new(),
            fed: Vec::new(),
            logit_rows: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Its limits.
    pub(crate) fn limits(&self) -> &ScheduleLimits {
        &self.limits
    }

    /// Requests of which nothing has been computed.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Candidates in the batch.
    pub(crate) fn running(&self) -> usize {
        self.running.len()
    }

    /// All cache pages.
    pub(crate) fn pages(&self) -> usize {
        self.pool.pages()
    }

    /// Cache pages that nobody holds.
    pub(crate) fn free_pages(&self) -> usize {
        self.pool.free()
    }

    /// What was done so far.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether it has no request.
    pub(crate) fn is_idle(&self) -> bool {
        !self.has_work() && self.ending.is_empty()
    }

    /// Whether there is anything for a step to do: more than to await last tokens.
    pub(crate) fn has_work(&self) -> bool {
        !(self.waiting.is_empty() && self.preempted.is_empty() && self.holds_no_pages())
    }

    /// Whether the next step can be decided while tokens are awaited: every row has its page without anybody being preempted.
    pub(crate) fn can_go_ahead(&self) -> bool {
        let full = self.running.iter().filter(|row| row.needs_page()).count();
        let forks_find_a_page = self.ready.is_empty()
            || self.pool.free() > 0
            || !self.running.is_empty()
            || !self.prefilling.is_empty();
        full <= self.pool.free() && forks_find_a_page && !self.lacks_pages()
    }

    /// A new pool of so many pages, which does not grow. None of the old one may be held.
    pub(crate) fn set_pages(&mut self, pages: usize) -> Result<(), SampleError> {
        if !self.holds_no_pages() {
            return Err(SampleError::internal("cache pages were exchanged while requests hold some"));
        }
        self.pool = PagePool::new(pages);
        self.is_open = false;
        Ok(())
    }

    /// Whether the oldest request needs more pages than there are; it begins when none are held and the pool has been replaced.
    pub(crate) fn lacks_pages(&self) -> bool {
        let needs_more = |request: &Arc<ActiveRequest>| request.page_need().longest > self.pool.pages();
        self.holds_no_pages() && self.preempted.is_empty() && self.waiting.front().is_some_and(needs_more)
    }

    /// A request younger than all others.
    pub(crate) fn add(&mut self, request: ActiveRequest) {
        self.waiting.push_back(Arc::new(request));
    }

    /// Drops a request with all its candidates. Returns whether it was active.
    pub(crate) fn abort(&mut self, id: RequestId) -> bool {
        let (pool, mut found) = (&mut self.pool, false);
        let mut stays = |request: &ActiveRequest, pages: &[u32]| {
            let stays = request.id != id;
            if !stays {
                pages.iter().for_each(|&page| pool.release(page));
                found = true;
            }
            stays
        };
        self.waiting.retain(|request| stays(request, &[]));
        self.prefilling.retain(|prefill| stays(&prefill.request, &prefill.pages));
        self.ready.retain(|fork| stays(&fork.request, &fork.pages));
        self.running.retain(|row| stays(&row.request, &row.pages));
        self.ending.retain(|row| stays(&row.request, &row.pages));
        self.preempted.retain(|row| stays(&row.request, &row.pages));
        found
    }

    /// Drops all requests.
    pub(crate) fn clear(&mut self) {
        self.pool = PagePool::new(self.pool.pages());
        self.waiting.clear();
        self.prefilling.clear();
        self.ready.clear();
        self.running.clear();
        self.ending.clear();
        self.preempted.clear();
    }

    /// Decides the next step. The returned pages must be copied, in order, before the step runs.
    pub(crate) fn next_step(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        // Running rows first: the pages that they need must not be given to others.
        self.grow_rows()?;
        let copies = self.place_forks()?;
        self.admit();
        self.fill_batch();
        if self.ids.is_empty() {
            return Err(SampleError::internal("candidates are left, but none can go on"));
        }
        Ok(copies)
    }

    /// Candidates that are being resumed: each has its place among the rows already.
    fn resuming(&self) -> usize {
        self.prefilling.iter().filter(|prefill| prefill.resumed.is_some()).count()
    }

    fn holds_no_pages(&self) -> bool {
        self.running.is_empty() && self.ready.is_empty() && self.prefilling.is_empty()
    }

    fn release(&mut self, pages: &[u32]) {
        pages.iter().for_each(|&page| self.pool.release(page));
    }

    /// Inserts a candidate among the running rows, at its place in their order.
    fn run(&mut self, sequence: Sequence) {
        let place = self.running.partition_point(|row| row.key() < sequence.key());
        self.running.insert(place, sequence);
    }

    /// Forks run while there are places for them, each with the page that its first token goes to.
    fn place_forks(&mut self) -> Result<Vec<PageCopy>, SampleError> {
        let (mut copies, resuming) = (Vec::new(), self.resuming());
        while self.running.len() + resuming < self.limits.rows {
            let waiting = self.ready.len();
            let Some(fork) = self.ready.front_mut() else { break };
            // The prompt's last page, where it is not full, becomes the fork's own: copy on write.
            let is_full = fork.request.tokens().is_multiple_of(PAGE_TOKENS);
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
                    // To preempt its own siblings would cost more than to wait for a page, while other rows run.
                    (None, _) if !self.running.is_empty() || !self.prefilling.is_empty() => break,
                    (None, _) if waiting > 1 => {
                        self.preempt_youngest()?;
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
}

#[cfg(test)]
mod tests;
