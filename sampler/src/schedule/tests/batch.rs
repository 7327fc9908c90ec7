//! What runs in a step: the budget, forks and their pages, the order of rows, and how long the schedule takes for it.

use std::time::Instant;

use super::*;

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
fn a_prompt_begins_only_beside_everybodys_next_page() {
    // Three pages of a candidate at full length. The second prompt takes one, and each candidate one soon after.
    for (pages, rows) in [(3, vec![(0, 16)]), (4, vec![(0, 16), (0, 16)])] {
        let mut schedule = schedule(&[16, 16], rules(8, 100, 1, 20), pages);
        schedule.next_step().unwrap();
        assert_eq!(shape(&schedule), rows, "{pages} pages");
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
        schedule.postprocess(|draw| Some(RowTokens::drawn(&picks[..samples[draw]])), &FakeText);
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
