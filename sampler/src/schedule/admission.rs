//! Which work begins: preempted candidates, then new prompts.

use selfplay_model::PAGE_TOKENS;

use super::{ActiveRequest, Prefill, Schedule};

impl Schedule {
    /// Preempted candidates are resumed, then new prompts begin, while there are places and pages.
    ///
    /// Beside what they take, as many pages stay free as rows may each take next: else the next step or two would preempt
    /// what has just begun, and its work would be lost. Nothing stays free for an empty batch, so that it gets going.
    pub(super) fn admit(&mut self) {
        if !self.ready.is_empty() && self.running.len() + self.resuming() < self.limits.rows {
            // A fork waits for a page.
            return;
        }
        let mut spare = self.pages_soon();
        while let Some(page_need) = self.resume(spare) {
            spare += page_need;
        }
        while self.preempted.is_empty()
            && let Some(page_need) = self.admit_prompt(spare)
        {
            spare += page_need;
        }
    }

    /// How many pages the rows, forks and prefills may take next.
    pub(super) fn pages_soon(&self) -> usize {
        let rows = self.running.iter().filter(|row| row.may_need_page()).count();
        rows + self.ready.len() + self.prefilling.iter().map(Prefill::rows).sum::<usize>()
    }

    fn take_pages(&mut self, pages: usize, spare: usize) -> Option<Vec<u32>> {
        let spare = if self.holds_no_pages() { 0 } else { spare };
        let fits = self.pool.free() >= pages.saturating_add(spare);
        // `collect` can't find fewer than are free.
        fits.then(|| (0..pages).filter_map(|_| self.pool.take()).collect())
    }

    /// Begins to prefill the oldest preempted candidate. Returns how many more pages it may take next; `None` when there is
    /// no such candidate, or no place or page for it.
    fn resume(&mut self, spare: usize) -> Option<usize> {
        if self.running.len() + self.resuming() + self.ready.len() >= self.limits.rows {
            return None;
        }
        let oldest = self.preempted.last()?;
        let shared = self.prompt_pages_of_a_sibling(&oldest.request).to_vec();
        let tokens = oldest.context();
        let is_all = shared.len() * PAGE_TOKENS == tokens;
        if is_all
            && self
                .prefilling
                .iter()
                .any(|other| other.request.id == oldest.request.id && other.done < tokens)
        {
            // Nothing is left to prefill, but what it shares is yet to be computed: it would run too early.
            return None;
        }
        let own = self.take_pages(tokens / PAGE_TOKENS + 1 - shared.len(), spare + 1)?;
        let mut resumed = self.preempted.pop()?;
        shared.iter().for_each(|&page| self.pool.retain(page));
        let done = shared.len() * PAGE_TOKENS;
        let pages = [shared, own].concat();
        if is_all {
            resumed.pages = pages;
            let page_need = usize::from(resumed.may_need_page());
            self.run(resumed);
            return Some(page_need);
        }
        let request = resumed.request.clone();
        self.prefilling.push_back(Prefill {
            request,
            done,
            pages,
            resumed: Some(resumed),
            scored: Vec::new(),
        });
        Some(1)
    }

    /// The prompt's full pages, where another of its candidates holds them; empty where none does.
    ///
    /// A candidate that is being resumed may not have computed them yet. It stands before this one in the queue and has its
    /// tokens in an earlier step, or earlier in the same one, and of the two it is not the first to be preempted.
    fn prompt_pages_of_a_sibling(&self, request: &ActiveRequest) -> &[u32] {
        let id = request.id;
        let first = self.running.partition_point(|row| row.request.id < id);
        let running = self.running.get(first).filter(|row| row.request.id == id).map(|row| &row.pages);
        let ready = || self.ready.iter().find(|fork| fork.request.id == id).map(|fork| &fork.pages);
        let resuming =
            || self.prefilling.iter().find(|other| other.request.id == id).map(|other| &other.pages);
        let whole = request.tokens() / PAGE_TOKENS;
        running.or_else(ready).or_else(resuming).map_or(&[], |pages| &pages[..whole])
    }

    /// Begins to prefill the next prompt. Returns as [`Self::resume`] does.
    fn admit_prompt(&mut self, spare: usize) -> Option<usize> {
        let request = self.waiting.front()?;
        let prefills: usize = self.prefilling.iter().map(Prefill::rows).sum();
        let need = request.page_need();
        if self.running.len() + self.ready.len() + prefills > self.limits.rows
            || need.longest > self.pool.pages()
        {
            return None;
        }
        let page_need = if need.private > 0 { request.samples } else { 0 };
        let pages = self.take_pages(need.prompt, spare + page_need)?;
        let request = self.waiting.pop_front()?;
        self.prefilling.push_back(Prefill { request, done: 0, pages, resumed: None, scored: Vec::new() });
        Some(page_need)
    }
}
