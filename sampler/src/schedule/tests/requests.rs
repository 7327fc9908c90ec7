//! Requests that come, wait and are aborted at any time; schedules of random shapes.

use selfplay_testing::Random;

use super::*;

/// A million tokens through schedules of random shapes with too few pages: who holds what is right after every step.
#[test]
fn a_million_tokens_leave_no_page_behind() {
    let (mut random, mut cases, mut all_aborted) = (Random::new(5), 0, 0);
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
