use std::time::Instant;

use super::*;
use crate::backend::fake::FakeText;
use crate::{Request, RequestEvent, Sample, SampledToken, Sampling, StopRule};

impl Schedule {
    /// Free pages.
    pub(crate) fn free_pages(&self) -> usize {
        self.pool.free()
    }

    /// Requests whose pages are held, or that are preempted.
    pub(crate) fn begun(&self) -> Vec<RequestId> {
        let candidates = self.running.iter().chain(&self.ready).chain(&self.preempted);
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
        self.running.len() + self.ready.len() + self.preempted.len() + prefills + waiting
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
        limits: ScheduleLimits { rows, token_budget, affordable_pages: 0, max_positions: 1000 },
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
    let events = schedule.postprocess(|draw| Some(&picks[draw]), &FakeText);
    let finished = events.into_iter().filter_map(|event| match event {
        RequestEvent::Token { .. } => None,
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

#[test]
fn prompts_are_cut_to_what_running_rows_leave_of_the_budget() {
    let mut schedule = schedule(&[10, 7], rules(8, 6, 1, 4), 100);
    assert_eq!(schedule.next_step().unwrap(), []);
    assert_eq!(shape(&schedule), [(0, 6)]);
    assert_eq!(schedule.batch().draws.len(), 0);
    answer(&mut schedule);
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(6, 4), (0, 2)]);
    assert_eq!(schedule.batch().logit_rows, [3]);
    answer(&mut schedule);
    // The first prompt's candidate runs; the second prompt has the other five tokens.
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(10, 1), (2, 5)]);
    assert_eq!(schedule.batch().logit_rows, [0, 5]);
    answer(&mut schedule);
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(11, 1), (7, 1)]);
}

#[test]
fn forks_share_full_pages_and_own_their_last() {
    let mut schedule = schedule(&[20], rules(8, 100, 3, 4), 100);
    schedule.next_step().unwrap();
    answer(&mut schedule);
    let copies = schedule.next_step().unwrap();
    let pages: Vec<Vec<u32>> = schedule.batch().rows.iter().map(|row| row.pages.to_vec()).collect();
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].from, copies[1].from);
    let full = pages[0][0];
    // The last fork takes the prompt's page over.
    assert_eq!(pages, [[full, copies[0].to], [full, copies[1].to], [full, copies[0].from]]);
    // Page 0 of the prompt, its last page, two copies: four held, none set aside.
    assert_eq!(schedule.free_pages(), 96);
}

#[test]
fn a_finished_rows_place_is_taken_in_the_next_step() {
    // Two tokens per response: the first with the prompt, the second in the batch.
    let mut schedule = schedule(&[3; 12], rules(2, 100, 2, 2), 100);
    let mut running = Vec::new();
    while !schedule.is_idle() {
        schedule.next_step().unwrap();
        running.push(schedule.running());
        answer(&mut schedule);
    }
    assert_eq!(running.iter().sum::<usize>(), 24);
    assert!(running[1..].iter().all(|&rows| rows == 2), "{running:?}");
    assert_eq!(schedule.free_pages(), 100);
}

#[test]
fn rows_of_a_prompt_stand_next_to_each_other() {
    let mut schedule = schedule(&[5, 5, 5], rules(4, 100, 2, 20), 100);
    for _ in 0..2 {
        schedule.next_step().unwrap();
        answer(&mut schedule);
    }
    assert_eq!(running(&schedule), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    // The first row ends; those behind it keep their order, and the third prompt's first candidate joins at the end.
    schedule.next_step().unwrap();
    answer_with(&mut schedule, |key| if key == self::key(0, 0) { STOP_ID } else { 65 });
    assert_eq!(running(&schedule), [(0, 1), (1, 0), (1, 1)]);
    schedule.next_step().unwrap();
    assert_eq!(running(&schedule), [(0, 1), (1, 0), (1, 1), (2, 0)]);
}

#[test]
fn a_pool_of_one_candidate_is_enough() {
    let (lengths, rules) = ([40, 3, 17, 40], rules(8, 16, 3, 30));
    let pages = rules.pages(&lengths, 0);
    assert_eq!(pages, 5);
    let mut schedule = schedule(&lengths, rules, pages);
    let mut finished = Vec::new();
    while !schedule.is_idle() {
        schedule.next_step().unwrap();
        finished.extend(answer(&mut schedule));
        schedule.check_invariants();
    }
    assert_eq!(schedule.free_pages(), pages);
    assert!(schedule.counts().preemptions > 0);
    assert_eq!(finished.len(), 4 * 3);
    assert!(finished.iter().all(|sample| sample.ids.len() == 30));
}

#[test]
fn the_youngest_is_preempted_and_resumed_beside_its_siblings_prompt() {
    // A prompt of four full pages; each of its three candidates takes a page every 16 tokens, three at most.
    let mut schedule = schedule(&[64], rules(8, 100, 3, 40), 11);
    let mut steps = 0;
    while schedule.counts().preemptions == 0 {
        schedule.next_step().unwrap();
        if schedule.counts().preemptions == 0 {
            answer(&mut schedule);
            steps += 1;
        }
    }
    // One step for the prompt, 32 for the tokens of two pages. Then the twelfth page is wanted, by the second row.
    assert_eq!(steps, 33);
    assert_eq!(running(&schedule), [(0, 0), (0, 1)]);
    assert_eq!(schedule.preempted[0].key(), key(0, 2));
    assert_eq!(schedule.preempted[0].ids.len(), 33);
    assert_eq!(schedule.free_pages(), 1);
    // The second row ends and gives its pages back; the third goes on beside the first.
    answer_with(&mut schedule, |key| if key.sample == 1 { STOP_ID } else { 65 });
    schedule.next_step().unwrap();
    // The prompt's 64 tokens are there; the response's first 32 are computed again, its last is fed after them.
    assert_eq!(shape(&schedule), [(97, 1), (64, 32)]);
    assert_eq!(schedule.batch().logit_rows, [0]);
    let pages: Vec<&[u32]> = schedule.batch().rows.iter().map(|row| row.pages).collect();
    assert_eq!((pages[0].len(), pages[1].len()), (7, 7));
    assert_eq!(pages[0][..4], pages[1][..4]);
    schedule.check_invariants();
    answer(&mut schedule);
    assert_eq!(
        schedule.counts(),
        Counts { tokens: 3 + 32 * 3 + 2 + 1, finished: 1, preemptions: 1, recomputed: 32 }
    );
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(98, 1), (96, 1)]);
}

#[test]
fn candidates_that_are_resumed_together_prefill_their_prompt_once() {
    // Of an aligned prompt, nothing but the prompt is to be computed again, and by the first of them alone.
    let mut schedule = schedule(&[32], rules(8, 10, 3, 9), 20);
    for _ in 0..4 {
        schedule.next_step().unwrap();
        answer(&mut schedule);
    }
    assert_eq!(schedule.ready.len(), 3);
    for _ in 0..3 {
        schedule.preempt_youngest().unwrap();
    }
    assert_eq!(schedule.free_pages(), 20);
    for context in [0, 10, 20, 30] {
        schedule.next_step().unwrap();
        assert_eq!(shape(&schedule), [(context, 10.min(32 - context))]);
        answer(&mut schedule);
        schedule.check_invariants();
    }
    assert_eq!((running(&schedule), schedule.preempted.len()), (vec![(0, 0)], 2));
    schedule.next_step().unwrap();
    assert_eq!(running(&schedule), [(0, 0), (0, 1), (0, 2)]);
    assert_eq!(schedule.counts(), Counts { tokens: 3, finished: 0, preemptions: 3, recomputed: 32 });
}

#[test]
fn a_prompt_begins_only_beside_everybodys_next_page() {
    // Three pages of a candidate at full length. The second prompt takes one, and each candidate one soon after.
    for (pages, rows) in [(3, vec![(0, 16)]), (4, vec![(0, 16), (0, 16)])] {
        let mut schedule = schedule(&[16, 16], rules(8, 100, 1, 20), pages);
        schedule.next_step().unwrap();
        assert_eq!(shape(&schedule), rows, "{pages} pages");
    }
}

#[test]
fn a_preempted_prompt_waits_again() {
    let mut schedule = schedule(&[10, 40], rules(8, 20, 1, 30), 100);
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(0, 10), (0, 10)]);
    answer(&mut schedule);
    assert_eq!(schedule.preempt_youngest().unwrap(), key(1, 0));
    assert_eq!(schedule.waiting.front().unwrap().id, RequestId(1));
    assert_eq!(schedule.counts(), Counts { tokens: 1, finished: 0, preemptions: 1, recomputed: 10 });
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(10, 1), (0, 19)]);
    schedule.check_invariants();
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A million tokens through schedules of random shapes with too few pages: who holds what is right after every step.
#[test]
fn a_million_tokens_leave_no_page_behind() {
    let (mut random, mut cases, mut all_aborted) = (Random(5), 0, 0);
    let mut all = Counts::default();
    while all.tokens + all.recomputed < 1_000_000 {
        let lengths: Vec<usize> = (0..1 + random.below(30))
            .map(|_| if random.below(3) == 0 { 16 * (1 + random.below(4)) } else { 1 + random.below(70) })
            .collect();
        let (rows, budget) = (1 + random.below(16), 1 + random.below(60));
        let rules = rules(rows, budget, 1 + random.below(6), 1 + random.below(80));
        let least = rules.pages(&lengths, 0);
        let pages = rules.pages(&lengths, least + random.below(1 + least));
        let mut schedule = schedule(&lengths, rules, pages);
        let (total, mut aborted) = (schedule.unfinished(), 0);
        let stop_share = 1 + random.below(60);
        // In some schedules a request is dropped now and then, whatever it is doing.
        let abort_share = if random.below(3) == 0 { 1 + random.below(60) } else { usize::MAX };
        while !schedule.is_idle() {
            schedule.next_step().unwrap();
            schedule.check_invariants();
            answer_with(&mut schedule, |_| if random.below(stop_share) == 0 { STOP_ID } else { 65 });
            schedule.check_invariants();
            if random.below(abort_share) == 0 {
                let before = schedule.unfinished();
                let found = schedule.abort(RequestId(random.below(lengths.len()) as u64));
                assert_eq!(found, schedule.unfinished() < before);
                aborted += before - schedule.unfinished();
                schedule.check_invariants();
            }
            assert_eq!(schedule.counts().finished + aborted + schedule.unfinished(), total);
        }
        assert_eq!(schedule.free_pages(), pages);
        all_aborted += aborted;
        let counts = schedule.counts();
        all.tokens += counts.tokens;
        all.recomputed += counts.recomputed;
        all.preemptions += counts.preemptions;
        cases += 1;
    }
    println!("{cases} schedules: {all:?}, {all_aborted} candidates aborted");
    assert!(all.preemptions > 2_000 && all_aborted > 500, "{all:?}, {all_aborted}");
}

/// The middle of the seconds that the schedule takes for a step of a full batch.
fn step_seconds(rows: usize, waiting: usize) -> f64 {
    const STEPS: usize = 300;
    let (lengths, rules) = (vec![20; waiting], rules(rows, 8192, 5, 60));
    let mut schedule = schedule(&lengths, rules, rules.pages(&lengths, 1 << 20));
    let picks = [SampledToken { id: 65, logprob: 0.0 }; 5];
    let mut seconds = Vec::new();
    while seconds.len() < STEPS && !schedule.is_idle() {
        let started = Instant::now();
        schedule.next_step().unwrap();
        let samples: Vec<usize> = schedule.batch().draws.iter().map(|draw| draw.samples).collect();
        schedule.postprocess(|draw| Some(&picks[..samples[draw]]), &FakeText);
        if schedule.running() == rows {
            seconds.push(started.elapsed().as_secs_f64());
        }
    }
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

#[test]
fn a_steps_time_goes_by_the_rows_and_not_by_who_waits() {
    // Other work on the machine can spoil one measurement; a schedule that looks at all that wait spoils every one.
    let measured = (0..5).map(|_| {
        let [few, many, small] = [(512, 400), (512, 4000), (64, 4000)].map(|(r, w)| step_seconds(r, w));
        println!(
            "a step of 512 rows: {:.1} µs with 400 prompts, {:.1} µs with 4,000; of 64 rows: {:.1} µs",
            few * 1e6,
            many * 1e6,
            small * 1e6
        );
        many < 3.0 * few && many < 3.0 * 8.0 * small
    });
    assert!({ measured }.any(|holds| holds));
}

#[test]
fn an_aborted_request_gives_its_pages_back_at_once_wherever_it_is() {
    let rules = rules(2, 30, 3, 40);
    let mut schedule = schedule(&[20, 200, 20], rules, 40);
    let step = |schedule: &mut Schedule| {
        schedule.next_step().unwrap();
        answer(schedule);
        schedule.check_invariants();
    };
    let lists = |schedule: &Schedule| {
        [
            schedule.running.len(),
            schedule.ready.len(),
            schedule.prefilling.len(),
            schedule.preempted.len(),
            schedule.waiting.len(),
        ]
    };
    (0..4).for_each(|_| step(&mut schedule));
    assert_eq!(lists(&schedule), [2, 1, 0, 0, 2]);
    assert!(schedule.abort(RequestId(2)), "a waiting request");
    assert!(!schedule.abort(RequestId(2)), "it is gone");
    assert!(schedule.abort(RequestId(0)), "two running rows and a ready fork");
    schedule.check_invariants();
    assert_eq!((lists(&schedule), schedule.free_pages()), ([0, 0, 0, 0, 1], 40));
    step(&mut schedule);
    assert_eq!(schedule.prefilling.front().unwrap().done, 30);
    assert!(schedule.abort(RequestId(1)), "a prefill, partly done");
    schedule.check_invariants();
    assert!(schedule.is_idle());
    assert_eq!(schedule.free_pages(), 40);
    // Preempted candidates hold nothing, and go as well; so does one that is being resumed.
    for resumes in [false, true] {
        schedule.add(rules.request(3, 20));
        step(&mut schedule);
        step(&mut schedule);
        while !schedule.holds_no_pages() {
            schedule.preempt_youngest().unwrap();
        }
        assert_eq!(lists(&schedule), [0, 0, 0, 3, 0]);
        if resumes {
            schedule.next_step().unwrap();
            assert!(schedule.prefilling.iter().any(|prefill| prefill.resumed.is_some()));
        }
        assert!(schedule.abort(RequestId(3)));
        schedule.check_invariants();
        assert!(schedule.is_idle());
        assert_eq!(schedule.free_pages(), 40);
    }
}

#[test]
fn requests_of_any_number_of_samples_share_the_rows() {
    let mut schedule = Schedule::new(rules(4, 100, 1, 1).limits);
    schedule.set_pages(100).unwrap();
    for (id, samples) in [3, 1, 2, 5, 1].into_iter().enumerate() {
        schedule.add(rules(4, 100, samples, 3).request(id, 5));
    }
    let mut drawn = Vec::new();
    while !schedule.is_idle() {
        schedule.next_step().unwrap();
        schedule.check_invariants();
        answer_with(&mut schedule, |key| {
            drawn.push((key.request.0, key.sample));
            65
        });
    }
    drawn.sort_unstable();
    let want = [3, 1, 2, 5, 1].into_iter().enumerate();
    let want: Vec<(u64, usize)> =
        want.flat_map(|(id, n)| (0..n).flat_map(move |k| [(id as u64, k); 3])).collect();
    assert_eq!(drawn, want);
}

#[test]
fn a_request_that_the_pool_is_too_small_for_waits_until_it_is_exchanged() {
    let mut schedule = schedule(&[10, 100, 10], rules(8, 200, 1, 4), 2);
    while !schedule.lacks_pages() {
        schedule.next_step().unwrap();
        schedule.check_invariants();
        assert!(schedule.set_pages(9).is_err(), "pages are held");
        answer(&mut schedule);
    }
    assert_eq!((schedule.counts().finished, schedule.waiting()), (1, 2));
    schedule.set_pages(9).unwrap();
    while !schedule.is_idle() {
        schedule.next_step().unwrap();
        answer(&mut schedule);
    }
    assert_eq!(schedule.counts().finished, 3);
}
