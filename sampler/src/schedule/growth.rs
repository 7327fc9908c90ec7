//! How many pages an open pool should have before the next step is decided.
//!
//! It grows while there is memory, before a decision would find a page missing: nobody waits or is preempted for a page that
//! there could be, and the steps are those of a pool that had all its pages from the start.

use selfplay_model::PAGE_TOKENS;

use super::{Prefill, Schedule};

impl Schedule {
    /// From now on the pool may grow.
    pub(crate) fn open_pages(&mut self) {
        self.is_open = true;
    }

    /// From now on the pool is what it is: there is no more memory.
    pub(crate) fn close_pages(&mut self) {
        self.is_open = false;
    }

    /// The pool has so many pages from now on, if it had fewer.
    pub(crate) fn add_pages(&mut self, pages: usize) {
        self.pool.grow_to(pages);
    }

    /// How many pages the pool should have; `None` where it has enough for whatever the next step may be, or does not grow.
    pub(crate) fn wanted_pages(&self) -> Option<usize> {
        let (pages, most) = (self.pool.pages(), self.limits.most_pages());
        if !self.is_open || pages >= most {
            return None;
        }
        let (begun, longest) = self.pages_of_begun();
        // What rows, forks and prefills take now, and what stays free beside it for what they may take next.
        let taken = 2 * self.pages_soon() + begun;
        let least = (pages + taken.saturating_sub(self.pool.free())).max(longest);
        // Each time by half, or by a part of all that there may be: driver calls cost some milliseconds.
        let ahead = pages + (pages / 2).max(most / 64);
        (least > pages).then(|| least.max(ahead).min(most))
    }

    /// Pages of everything that may begin in the next step, and those of the longest candidate among it.
    fn pages_of_begun(&self) -> (usize, usize) {
        let resumed = self.preempted.iter().map(|row| row.context() / PAGE_TOKENS + 2).sum();
        let placed = self.running.len() + self.ready.len();
        let placed = placed + self.prefilling.iter().map(Prefill::rows).sum::<usize>();
        // One prompt is ahead of the rows.
        let mut places = (self.limits.rows + 1).saturating_sub(placed);
        let (mut begun, mut longest): (usize, usize) = (resumed, 0);
        for request in &self.waiting {
            if places == 0 {
                break;
            }
            let need = request.page_need();
            begun = begun.saturating_add(need.prompt.saturating_add(request.samples));
            longest = longest.max(need.longest);
            places = places.saturating_sub(request.samples);
        }
        (begun, longest)
    }
}
