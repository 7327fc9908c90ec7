//! What a step draws: first that it is awaited, then what it is.
//!
//! [`Schedule::begun`] moves everything on as far as it goes without knowing a token; [`Schedule::take`] gives the candidates
//! their tokens. Between the two of one step the next one may be decided. A candidate that is gone by then (it has ended, or its
//! request was aborted) has drawn in vain.

use std::ops::Range;
use std::sync::Arc;

use selfplay_records::FinishReason;

use super::sequence::{Sequence, SequenceKey};
use super::{ActiveRequest, Prefill, Schedule};
use crate::pick::RowTokens;
use crate::{RequestEvent, SampleError, ScoredToken, TextDecoder};

/// A step whose tokens are awaited: whose they are, in the order of the batch's draws.
#[derive(Debug)]
pub(crate) struct BegunStep {
    rows: Vec<SequenceKey>,
    prompts: Vec<BegunPrompt>,
}

impl BegunStep {
    /// How many tokens each of its draws gives.
    pub(crate) fn draws(&self) -> Vec<usize> {
        let of_prompt = |prompt: &BegunPrompt| {
            let last = prompt.ended.as_ref().map(|_| prompt.request.samples);
            std::iter::repeat_n(0, prompt.scored).chain(last)
        };
        std::iter::repeat_n(1, self.rows.len()).chain(self.prompts.iter().flat_map(of_prompt)).collect()
    }
}

/// A prompt's part of a step.
#[derive(Debug)]
struct BegunPrompt {
    request: Arc<ActiveRequest>,
    /// Draws that score a token of the prompt.
    scored: usize,
    /// Where the step ends the prompt: what earlier steps scored of it.
    ended: Option<Vec<ScoredToken>>,
}

/// Where a candidate whose token is awaited stands.
#[derive(Clone, Copy)]
enum CandidatePlace {
    Running(usize),
    Ready(usize),
    Ending(usize),
}

impl Schedule {
    /// The step that was decided runs: whatever it draws is awaited from now on. A row goes on, but for one whose last token
    /// this is; a prompt that it ends has K candidates.
    pub(crate) fn begun(&mut self) -> BegunStep {
        let mut step = BegunStep { rows: Vec::with_capacity(self.running.len()), prompts: Vec::new() };
        let mut place = 0;
        let rows = std::mem::take(&mut self.running);
        self.running.reserve(rows.len());
        for mut row in rows {
            step.rows.push(row.key());
            let is_last = row.await_token(place);
            place += 1;
            if is_last {
                let pages = std::mem::take(&mut row.pages);
                self.release(&pages);
                self.ending.push(row);
            } else {
                self.running.push(row);
            }
        }
        for (prefill, &chunk) in self.prefilling.iter_mut().zip(&self.chunks) {
            let begin = prefill.done;
            prefill.done += chunk;
            if prefill.resumed.is_some() {
                self.counts.recomputed += chunk;
                continue;
            }
            let is_ended = prefill.done == prefill.tokens();
            let scored = match prefill.is_scored() {
                true => (prefill.done + 1).min(prefill.tokens()).saturating_sub(begin + 1),
                false => 0,
            };
            step.prompts.push(BegunPrompt {
                request: prefill.request.clone(),
                scored,
                ended: is_ended.then(|| std::mem::take(&mut prefill.scored)),
            });
        }
        while let Some(mut prefill) = self.pop_prefilled() {
            match prefill.resumed.take() {
                Some(mut resumed) => {
                    resumed.pages = prefill.pages;
                    self.run(resumed);
                }
                None => place = self.fork(prefill, place),
            }
        }
        step
    }

    /// Gives the candidates of a step their tokens: `tokens` gives what the batch's n-th draw gave, or `None` where its logits
    /// were not finite. Steps come in their order.
    pub(crate) fn take<'p>(
        &mut self,
        step: BegunStep,
        tokens: impl Fn(usize) -> Option<RowTokens<'p>>,
        text: &dyn TextDecoder,
    ) -> Vec<RequestEvent> {
        let (mut events, mut failures) = (Vec::with_capacity(step.rows.len()), Vec::new());
        let mut draw = 0;
        for key in step.rows {
            if let Err(error) = self.take_token(key, tokens(draw), 0, text, &mut events) {
                failures.push((key.request, error));
            }
            draw += 1;
        }
        for BegunPrompt { request, scored, ended } in step.prompts {
            let found = scored_tokens(&tokens, draw..draw + scored);
            draw += scored;
            let first = ended.as_ref().and_then(|_| tokens(draw));
            draw += usize::from(ended.is_some());
            let Some(found) = found else {
                let prompt_id = request.prompt_id.clone();
                failures.push((request.id, SampleError::NotFinite { prompt_id, step: 0 }));
                continue;
            };
            match ended {
                Some(before) => {
                    let scored = [before, found].concat();
                    if let Err(error) = self.take_first_tokens(&request, scored, first, text, &mut events) {
                        failures.push((request.id, error));
                    }
                }
                None => {
                    let is_it = |prefill: &&mut Prefill| prefill.request.id == request.id;
                    self.prefilling.iter_mut().filter(is_it).for_each(|p| p.scored.extend_from_slice(&found));
                }
            }
        }
        let mut failed = Vec::new();
        for (request, error) in failures {
            // A request fails once, with its first error; one that was dropped meanwhile fails no more.
            if self.abort(request) && !failed.contains(&request) {
                failed.push(request);
                events.push(RequestEvent::Failed { request, error });
            }
        }
        events
    }

    /// Of a prompt that the step ended: its scored tokens, and its candidates' first ones.
    fn take_first_tokens(
        &mut self,
        request: &ActiveRequest,
        scored: Vec<ScoredToken>,
        first: Option<RowTokens<'_>>,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<(), SampleError> {
        let key = |sample| SequenceKey { request: request.id, sample };
        // Its candidates are there together or, after an abort, not at all.
        if request.logprobs.prompt && self.find(key(0)).is_some() {
            events.push(RequestEvent::Prompt { request: request.id, tokens: scored });
        }
        (0..request.samples).try_for_each(|sample| self.take_token(key(sample), first, sample, text, events))
    }

    /// Gives a candidate its next token, the one at `place` of what its row drew.
    fn take_token(
        &mut self,
        key: SequenceKey,
        tokens: Option<RowTokens<'_>>,
        place: usize,
        text: &dyn TextDecoder,
        events: &mut Vec<RequestEvent>,
    ) -> Result<(), SampleError> {
        let Some(found) = self.find(key) else {
            self.counts.dropped += 1;
            return Ok(());
        };
        let sequence = match found {
            CandidatePlace::Running(at) => self.running.get_mut(at),
            CandidatePlace::Ready(at) => self.ready.get_mut(at),
            CandidatePlace::Ending(at) => self.ending.get_mut(at),
        };
        let Some(sequence) = sequence else {
            return Err(SampleError::internal("a candidate without a place"));
        };
        let Some(RowTokens { picks, top, .. }) = tokens else {
            let prompt_id = sequence.request.prompt_id.clone();
            return Err(SampleError::NotFinite { prompt_id, step: sequence.ids.len() });
        };
        let pick = picks.get(place).copied();
        let pick = pick.ok_or_else(|| SampleError::internal("a row without a token drawn"))?;
        self.counts.tokens += 1;
        let (request, sample) = (key.request, key.sample);
        let top = top.to_vec();
        events.push(RequestEvent::Token { request, sample, id: pick.id, logprob: pick.logprob, top });
        if let Some(reason) = sequence.accept(pick, text)? {
            let ended = match found {
                CandidatePlace::Running(at) => Some(self.running.remove(at)),
                CandidatePlace::Ready(at) => self.ready.remove(at),
                CandidatePlace::Ending(at) => Some(self.ending.remove(at)),
            };
            if let Some(ended) = ended {
                self.finish(ended, reason, events);
            }
        }
        Ok(())
    }

    /// A candidate that awaits a token.
    fn find(&self, key: SequenceKey) -> Option<CandidatePlace> {
        let awaits = |one: Option<&Sequence>| one.is_some_and(|one| one.key() == key && one.awaited > 0);
        let at = self.running.partition_point(|row| row.key() < key);
        if awaits(self.running.get(at)) {
            return Some(CandidatePlace::Running(at));
        }
        let at = self.ready.partition_point(|fork| fork.key() < key);
        if awaits(self.ready.get(at)) {
            return Some(CandidatePlace::Ready(at));
        }
        self.ending.iter().position(|row| row.key() == key).map(CandidatePlace::Ending)
    }

    fn pop_prefilled(&mut self) -> Option<Prefill> {
        let front = self.prefilling.front()?;
        if front.done == front.tokens() { self.prefilling.pop_front() } else { None }
    }

    /// K candidates, whose first tokens the step draws from `place` on; those that have more than one to come hold the prompt's
    /// pages. Returns the place after theirs.
    fn fork(&mut self, prefill: Prefill, place: usize) -> usize {
        let Prefill { request, pages, .. } = prefill;
        for sample in 0..request.samples {
            let mut fork = Sequence::new(request.clone(), sample);
            if fork.await_token(place + sample) {
                self.ending.push(fork);
            } else {
                pages.iter().for_each(|&page| self.pool.retain(page));
                fork.pages.clone_from(&pages);
                self.ready.push_back(fork);
            }
        }
        self.release(&pages);
        place + request.samples
    }

    fn finish(&mut self, sequence: Sequence, reason: FinishReason, events: &mut Vec<RequestEvent>) {
        self.release(&sequence.pages);
        self.counts.finished += 1;
        events.push(RequestEvent::Finished { request: sequence.request.id, sample: sequence.finish(reason) });
    }
}

/// The given tokens of some draws with their log-probs; `None` where logits were not finite.
fn scored_tokens<'p>(
    tokens: &impl Fn(usize) -> Option<RowTokens<'p>>,
    draws: Range<usize>,
) -> Option<Vec<ScoredToken>> {
    let of_row = |draw| {
        let row = tokens(draw)?;
        Some(ScoredToken { token: row.scored?, top: row.top.to_vec() })
    };
    draws.map(of_row).collect()
}
