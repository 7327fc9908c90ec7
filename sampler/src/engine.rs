//! The engine: requests come at any time, each with its own rules; a step advances all of them by a token or a chunk of a
//! prompt. Schedule → run → draw → take.
//!
//! Where a device draws, a step is begun before the tokens of the one before it are read ([`Backend::begin`]): the device feeds
//! them to itself, the host is a step behind, and its work is done while the device computes. A candidate that turns out to have
//! ended has then run one step more, whose token is dropped. A step is not begun ahead where a cache page must be taken from
//! somebody, and where logits are to be read.
//!
//! ```no_run
//! # use selfplay_sampler::{Engine, RequestEvent, Request, SampleError};
//! # fn answer(mut engine: Engine<'_>, request: Request) -> Result<(), SampleError> {
//! let id = engine.add(request)?;
//! while !engine.is_idle() {
//!     for event in engine.step()? {
//!         if let RequestEvent::Finished { request, sample } = event {
//!             assert_eq!(request, id);
//!             println!("{:?}", sample.ids);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A candidate's tokens are a function of its own request: its random numbers are keyed by (seed, iteration, prompt id,
//! candidate, step), and where [`Backend::is_batch_invariant`] holds, so are the bits of its logits, whatever other
//! requests there are and whether it was preempted in between.

use std::time::Duration;

use crate::pick::{Slots, row_draws};
use crate::schedule::{ActiveRequest, BegunStep, Counts, LogitsDraw, PageNeed, Schedule, ScheduleLimits};
use crate::{Backend, BackendStep, Capacity, Request, RequestEvent, RequestId, SampleError, TextDecoder};

/// Answers requests over one backend, whose cache and steps they share.
pub struct Engine<'a> {
    backend: Box<dyn Backend + 'a>,
    text: &'a dyn TextDecoder,
    capacity: Capacity,
    schedule: Schedule,
    slots: Slots,
    /// The step that the device was given and whose tokens are not read.
    begun: Option<BegunStep>,
    next_id: u64,
}

impl<'a> Engine<'a> {
    /// An engine without requests. `text` decodes the responses of requests with stop strings.
    pub fn new(backend: Box<dyn Backend + 'a>, text: &'a dyn TextDecoder, capacity: Capacity) -> Self {
        let limits = ScheduleLimits::new(
            capacity,
            backend.page_bytes(),
            backend.max_positions(),
            backend.vocab_size(),
        );
        let schedule = Schedule::new(limits);
        Self { backend, text, capacity, schedule, slots: Slots::default(), begun: None, next_id: 0 }
    }

    /// Queues a request. It begins when there are rows and pages for it, after all requests that were added before.
    ///
    /// # Errors
    /// A prompt that is empty, too long or outside the vocabulary; sampling that is out of range. The engine is as before.
    pub fn add(&mut self, request: Request) -> Result<RequestId, SampleError> {
        self.check_prompt(&request.prompt_id, &request.prompt_ids)?;
        request.sampling.validate().into_result(SampleError::Settings)?;
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.schedule.add(ActiveRequest::new(id, request, self.backend.max_positions()));
        Ok(id)
    }

    /// Advances the requests by one step. Events are in the order of the rows, a candidate's last token before its end; where
    /// a device draws, they are those of the step before. Without requests it does nothing.
    ///
    /// # Errors
    /// The backend's; the state of the requests is then undefined, and [`Engine::clear`] must be called. A failure of a
    /// single request is not an error but an event.
    pub fn step(&mut self) -> Result<Vec<RequestEvent>, SampleError> {
        if self.is_idle() {
            return Ok(Vec::new());
        }
        let mut events = Vec::new();
        self.grow()?;
        if !self.schedule.can_go_ahead() {
            self.take_begun(&mut events)?;
        }
        let mut next = None;
        if self.schedule.has_work() {
            if self.schedule.lacks_pages() {
                self.schedule.open_pages();
                self.grow()?;
            }
            if self.schedule.lacks_pages() {
                // What there is does not grow.
                self.reserve(self.schedule.limits().most_pages())?;
            }
            let copies = self.schedule.next_step()?;
            if !copies.is_empty() {
                self.backend.copy_pages(&copies)?;
            }
            if self.backend.can_begin() && self.begin()? {
                next = Some(self.schedule.begun());
            } else {
                if self.begun.is_some() {
                    self.take_begun(&mut events)?;
                    // What has ended is not run, and what was awaited is known.
                    self.schedule.fill_batch();
                }
                self.run(&mut events)?;
            }
        }
        self.take_begun(&mut events)?;
        self.begun = next;
        if self.schedule.is_idle() || !self.backend.runs_ahead() {
            self.take_begun(&mut events)?;
        }
        Ok(events)
    }

    /// Drops a request with all its candidates: no more events of it come, and its pages are free at once. Returns whether
    /// the request was still active.
    pub fn abort(&mut self, id: RequestId) -> bool {
        self.schedule.abort(id)
    }

    /// Drops all requests.
    pub fn clear(&mut self) {
        self.schedule.clear();
        self.begun = None;
        self.backend.discard();
    }

    /// Whether it has no request.
    pub fn is_idle(&self) -> bool {
        self.schedule.is_idle()
    }

    /// Requests of which nothing has been computed.
    pub fn waiting(&self) -> usize {
        self.schedule.waiting()
    }

    /// Candidates in the batch.
    pub fn running(&self) -> usize {
        self.schedule.running()
    }

    /// Gives the memory of all cache pages back, which the next request takes again. Nothing is done while there are requests.
    ///
    /// # Errors
    /// The backend's.
    pub fn release_pages(&mut self) -> Result<(), SampleError> {
        if self.is_idle() && self.begun.is_none() {
            self.schedule.set_pages(0)?;
            self.schedule.open_pages();
            self.backend.release_pages()?;
        }
        Ok(())
    }

    /// Cache pages that it has: none before its first request, more as requests come to need them.
    pub fn pages(&self) -> usize {
        self.schedule.pages()
    }

    /// Cache pages that no request holds.
    pub fn free_pages(&self) -> usize {
        self.schedule.free_pages()
    }

    /// What it has done so far.
    pub fn counts(&self) -> Counts {
        self.schedule.counts()
    }

    /// The batch and cache that it works with.
    pub fn capacity(&self) -> Capacity {
        self.capacity
    }

    /// How long it has waited for a device so far: [`Backend::waited`].
    pub fn waited(&self) -> Duration {
        self.backend.waited()
    }

    /// How long the device has had nothing to do between steps: [`Backend::device_idle`].
    pub fn device_idle(&self) -> Option<Duration> {
        self.backend.device_idle()
    }

    pub(crate) fn is_batch_invariant(&self) -> Result<bool, SampleError> {
        self.backend.is_batch_invariant()
    }

    /// Cache pages for requests that are known beforehand: no more than they can use. `prompts` are the lengths of prompts.
    pub(crate) fn pages_for(
        &self,
        prompts: impl Iterator<Item = usize>,
        max_new_tokens: usize,
        samples: usize,
    ) -> usize {
        let limits = self.schedule.limits();
        limits.pool_pages(prompts.map(|tokens| {
            PageNeed::new(tokens, max_new_tokens.min(limits.max_positions.saturating_sub(tokens)), samples)
        }))
    }

    /// Has the cache be of so many pages. No request may hold any.
    pub(crate) fn reserve(&mut self, pages: usize) -> Result<(), SampleError> {
        self.schedule.set_pages(pages)?;
        self.backend.reserve_pages(pages)
    }

    /// More cache pages where they would be missed and there is memory for them.
    fn grow(&mut self) -> Result<(), SampleError> {
        let Some(wanted) = self.schedule.wanted_pages() else { return Ok(()) };
        let (now, most) = (self.schedule.pages(), self.schedule.limits().most_pages());
        let (mut more, mut pages) = (wanted - now, self.backend.grow_pages(wanted, most)?);
        while pages < now + more && more > 1 {
            more /= 2;
            pages = self.backend.grow_pages(now + more, most)?;
        }
        if pages < wanted {
            tracing::warn!(
                "the device has no memory for {wanted} cache pages of {} bytes: requests share {pages}",
                self.backend.page_bytes()
            );
            self.schedule.close_pages();
        }
        self.schedule.add_pages(pages.min(most));
        Ok(())
    }

    /// Checks that the model can answer a prompt.
    pub(crate) fn check_prompt(&self, prompt_id: &str, prompt_ids: &[u32]) -> Result<(), SampleError> {
        let (context, vocab_size) = (self.backend.max_positions(), self.backend.vocab_size());
        let prompt_id = || prompt_id.to_owned();
        if prompt_ids.is_empty() {
            return Err(SampleError::EmptyPrompt { prompt_id: prompt_id() });
        }
        if prompt_ids.len() >= context {
            let length = prompt_ids.len();
            return Err(SampleError::PromptTooLong { prompt_id: prompt_id(), length, context });
        }
        if let Some(position) = prompt_ids.iter().position(|&id| id as usize >= vocab_size) {
            let id = prompt_ids[position];
            return Err(SampleError::TokenOutside { prompt_id: prompt_id(), position, id, vocab_size });
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Begins the step that was decided on a device that draws. Returns whether it did.
    fn begin(&mut self) -> Result<bool, SampleError> {
        let batch = self.schedule.batch();
        // A device that draws keeps the logits; where more of them is wanted, they are read, and the draws are the same.
        if batch.draws.iter().any(LogitsDraw::reads_logits) {
            return Ok(false);
        }
        let step =
            BackendStep { ids: batch.ids, fed: batch.fed, rows: &batch.rows, logit_rows: batch.logit_rows };
        self.backend.begin(step, &row_draws(&batch.draws))
    }

    /// Reads the tokens of the step that was begun, if any.
    fn take_begun(&mut self, events: &mut Vec<RequestEvent>) -> Result<(), SampleError> {
        let Some(begun) = self.begun.take() else { return Ok(()) };
        let drawn = self.backend.finish()?;
        self.slots.take_drawn(&begun.draws(), &drawn)?;
        events.extend(self.schedule.take(begun, |draw| self.slots.tokens(draw), self.text));
        Ok(())
    }

    /// Runs the step that was decided, all tokens being known by now, and draws from its logits.
    fn run(&mut self, events: &mut Vec<RequestEvent>) -> Result<(), SampleError> {
        let batch = self.schedule.batch();
        if batch.ids.is_empty() {
            // All that was to go on has ended.
            return Ok(());
        }
        let draws = batch.draws.as_slice();
        let step =
            BackendStep { ids: batch.ids, fed: batch.fed, rows: &batch.rows, logit_rows: batch.logit_rows };
        let (slots, vocab_size, mut rows_read) = (&mut self.slots, self.backend.vocab_size(), 0);
        let mut read = |logits: &[f32]| rows_read = slots.draw(draws, logits, vocab_size);
        self.backend.run(step, &mut read)?;
        if rows_read != draws.len() {
            let what = format!("{rows_read} rows of logits for {} draws", draws.len());
            return Err(SampleError::internal(what));
        }
        let begun = self.schedule.begun();
        events.extend(self.schedule.take(begun, |draw| self.slots.tokens(draw), self.text));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
