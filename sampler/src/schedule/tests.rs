//! Schedules that tests make, the invariants that hold between any two steps, and how a step is answered.

mod batch;
mod preemption;
mod requests;

use super::*;
use crate::backend::fake::FakeText;
use crate::pick::RowTokens;
use crate::{Request, RequestEvent, Sample, SampledToken, Sampling, StopRule, WantedLogProbs};

impl Schedule {
    /// The step that was decided, and its tokens at once.
    fn postprocess<'p>(
        &mut self,
        tokens: impl Fn(usize) -> Option<RowTokens<'p>>,
        text: &FakeText,
    ) -> Vec<RequestEvent> {
        let step = self.begun();
        self.take(step, tokens, text)
    }

    /// Requests whose pages are held, or that are preempted.
    pub(crate) fn begun_requests(&self) -> Vec<RequestId> {
        let candidates = self.running.iter().chain(&self.ready).chain(&self.preempted).chain(&self.ending);
        let mut ids: Vec<RequestId> = candidates.map(|one| one.request.id).collect();
        ids.extend(self.prefilling.iter().map(|prefill| prefill.request.id));
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// What holds between any two steps.
    pub(crate) fn check_invariants(&self) {
        let mut holders = vec![0u32; self.pool.pages()];
        let candidates = self.running.iter().chain(&self.ready).map(|one| &one.pages);
        for &page in candidates.chain(self.prefilling.iter().map(|prefill| &prefill.pages)).flatten() {
            holders[page as usize] += 1;
        }
        assert_eq!(holders, self.pool.holders());
        assert_eq!(self.pool.free(), holders.iter().filter(|&&count| count == 0).count());
        assert!(self.preempted.iter().all(|one| one.pages.is_empty()));
        // Nobody who may have ended already is preempted, and the host is no more than a step behind.
        let resuming = self.prefilling.iter().filter_map(|prefill| prefill.resumed.as_ref());
        assert!(self.preempted.iter().chain(resuming).all(|one| one.awaited == 0));
        assert!(self.running.iter().chain(&self.ready).all(|one| one.awaited <= 1));
        assert!(self.ending.iter().all(|one| one.pages.is_empty() && (1..=2).contains(&one.awaited)));

        assert!(self.running.len() + self.resuming() <= self.limits.rows);
        let running: Vec<SequenceKey> = self.running.iter().map(Sequence::key).collect();
        let ready: Vec<SequenceKey> = self.ready.iter().map(Sequence::key).collect();
        let prefilling: Vec<SequenceKey> = self.prefilling.iter().map(Prefill::key).collect();
        let preempted: Vec<SequenceKey> = self.preempted.iter().rev().map(Sequence::key).collect();
        let waiting: Vec<SequenceKey> =
            self.waiting.iter().map(|request| SequenceKey { request: request.id, sample: 0 }).collect();
        let at_work = [running.clone(), ready.clone(), prefilling.clone()].concat();
        for list in [&running, &ready, &prefilling, &preempted, &waiting] {
            assert!(list.is_sorted_by(|a, b| a < b), "out of order: {list:?}");
        }
        if let (Some(youngest), Some(next)) = (at_work.iter().max(), preempted.first()) {
            assert!(youngest < next, "{next:?} was preempted before {youngest:?}");
        }
        if let Some(next) = waiting.first() {
            assert!(at_work.iter().chain(&preempted).all(|key| key.request < next.request));
        }
        let first_prompt = self.prefilling.iter().position(|prefill| prefill.resumed.is_none());
        assert!(
            first_prompt.is_none_or(|first| self.prefilling.iter().skip(first).all(|p| p.resumed.is_none()))
        );
    }

    /// Candidates to come.
    fn unfinished(&self) -> usize {
        let waiting: usize = self.waiting.iter().map(|request| request.samples).sum();
        let prefills: usize = self.prefilling.iter().map(Prefill::rows).sum();
        let ending = self.ending.len();
        self.running.len() + self.ready.len() + self.preempted.len() + ending + prefills + waiting
    }
}

/// What a schedule may use, and how all its requests are answered.
#[derive(Clone, Copy)]
struct Rules {
    limits: ScheduleLimits,
    sampling: Sampling,
}

fn rules(rows: usize, token_budget: usize, num_samples: usize, max_new_tokens: usize) -> Rules {
    let sampling = Sampling { num_samples, max_new_tokens, ..Sampling::default() };
    let rows = rows.min(token_budget);
    Rules {
        limits: ScheduleLimits {
            rows,
            token_budget,
            scored_rows: 1000,
            affordable_pages: 0,
            max_positions: 1000,
        },
        sampling,
    }
}

impl Rules {
    fn request(&self, id: usize, tokens: usize) -> ActiveRequest {
        let request = Request {
            prompt_id: id.to_string(),
            prompt_ids: vec![1; tokens],
            sampling: self.sampling,
            stop: stop_rule(),
            logprobs: WantedLogProbs::default(),
        };
        ActiveRequest::new(RequestId(id as u64), request, self.limits.max_positions)
    }

    /// Pages for prompts of these lengths where there is memory for `affordable`.
    fn pages(&self, lengths: &[usize], affordable_pages: usize) -> usize {
        let needs = lengths.iter().map(|&tokens| self.request(0, tokens).page_need());
        ScheduleLimits { affordable_pages, ..self.limits }.pool_pages(needs)
    }
}

/// A schedule with prompts of these lengths.
fn schedule(lengths: &[usize], rules: Rules, pages: usize) -> Schedule {
    let mut schedule = Schedule::new(rules.limits);
    schedule.set_pages(pages).unwrap();
    for (id, &tokens) in lengths.iter().enumerate() {
        schedule.add(rules.request(id, tokens));
    }
    schedule
}

const STOP_ID: u32 = 7;

fn stop_rule() -> Arc<StopRule> {
    Arc::new(StopRule::new(&FakeText, &[STOP_ID], &[], 256).unwrap())
}

fn key(request: u64, sample: usize) -> SequenceKey {
    SequenceKey { request: RequestId(request), sample }
}

/// Answers every draw of a step with the tokens that `id_of` gives its candidates; what has ended.
fn answer_with(schedule: &mut Schedule, mut id_of: impl FnMut(SequenceKey) -> u32) -> Vec<Sample> {
    let mut pick = |key| SampledToken { id: id_of(key), logprob: 0.0 };
    let picks: Vec<Vec<SampledToken>> = schedule
        .batch()
        .draws
        .iter()
        .map(|draw| {
            let samples = draw.first_sample..draw.first_sample + draw.samples;
            samples.map(|sample| pick(SequenceKey { request: draw.request.id, sample })).collect()
        })
        .collect();
    let events = schedule.postprocess(|draw| Some(RowTokens::drawn(&picks[draw])), &FakeText);
    let finished = events.into_iter().filter_map(|event| match event {
        RequestEvent::Prompt { .. } | RequestEvent::Token { .. } => None,
        RequestEvent::Finished { sample, .. } => Some(sample),
        RequestEvent::Failed { error, .. } => panic!("{error}"),
    });
    finished.collect()
}

/// Answers every draw of a step with token 65.
fn answer(schedule: &mut Schedule) -> Vec<Sample> {
    answer_with(schedule, |_| 65)
}

fn shape(schedule: &Schedule) -> Vec<(usize, usize)> {
    schedule.batch().rows.iter().map(|row| (row.context, row.new_tokens)).collect()
}

fn running(schedule: &Schedule) -> Vec<(u64, usize)> {
    schedule.running.iter().map(|row| (row.request.id.0, row.sample)).collect()
}
