//! Too few pages: who is preempted, and what is computed again.

use super::*;

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
        Counts { tokens: 3 + 32 * 3 + 2 + 1, finished: 1, preemptions: 1, recomputed: 32, dropped: 0 }
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
    assert_eq!(
        schedule.counts(),
        Counts { tokens: 3, finished: 0, preemptions: 3, recomputed: 32, dropped: 0 }
    );
}

#[test]
fn a_preempted_prompt_waits_again() {
    let mut schedule = schedule(&[10, 40], rules(8, 20, 1, 30), 100);
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(0, 10), (0, 10)]);
    answer(&mut schedule);
    assert_eq!(schedule.preempt_youngest().unwrap(), key(1, 0));
    assert_eq!(schedule.waiting.front().unwrap().id, RequestId(1));
    assert_eq!(
        schedule.counts(),
        Counts { tokens: 1, finished: 0, preemptions: 1, recomputed: 10, dropped: 0 }
    );
    schedule.next_step().unwrap();
    assert_eq!(shape(&schedule), [(10, 1), (0, 19)]);
    schedule.check_invariants();
}
