//! Pages for running rows, taken from younger holders where none is free.

use super::sequence::{Sequence, SequenceKey};
use super::{Prefill, Schedule};
use crate::SampleError;

impl Schedule {
    /// A row whose pages are full gets one more, the oldest row first.
    pub(super) fn grow_rows(&mut self) -> Result<(), SampleError> {
        let mut row = 0;
        while row < self.running.len() {
            if self.running[row].needs_page() {
                // A row that is preempted for its own page was the last one.
                let Some(page) = self.take_page_for(self.running[row].key())? else { break };
                self.running[row].pages.push(page);
            }
            row += 1;
        }
        Ok(())
    }

    /// A page, for which younger holders are preempted where none is free; `None` when `key` itself was the youngest, and
    /// has been preempted.
    fn take_page_for(&mut self, key: SequenceKey) -> Result<Option<u32>, SampleError> {
        loop {
            if let Some(page) = self.pool.take() {
                return Ok(Some(page));
            }
            if self.preempt_youngest()? == key {
                return Ok(None);
            }
        }
    }

    /// Preempts the youngest holder of pages. It frees those without another holder, which may be none.
    pub(super) fn preempt_youngest(&mut self) -> Result<SequenceKey, SampleError> {
        let prefill = self.prefilling.back().map(Prefill::key);
        let ready = self.ready.back().map(Sequence::key);
        let running = self.running.last().map(Sequence::key);
        let Some(youngest) = prefill.max(ready).max(running) else {
            return Err(SampleError::internal("no cache page is free, and no candidate holds one"));
        };
        let sequence = if prefill == Some(youngest) {
            self.prefilling.pop_back().and_then(|prefill| {
                self.release(&prefill.pages);
                if prefill.resumed.is_none() {
                    self.counts.recomputed += prefill.done;
                    self.waiting.push_front(prefill.request);
                }
                prefill.resumed
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
            self.preempted.push(sequence);
        }
        Ok(youngest)
    }
}
