use super::*;
use crate::fake::FakeText;

fn limits(rows: usize, token_budget: usize, samples: usize, max_new_tokens: usize) -> Limits {
    let settings = SampleSettings {
        max_batch_rows: rows,
        token_budget,
        num_samples: samples,
        max_new_tokens,
        ..SampleSettings::default()
    };
    Limits::new(&settings, 1000)
}

fn requests(lengths: &[usize]) -> Vec<SampleRequest> {
    let request =
        |(i, &n): (usize, &usize)| SampleRequest { prompt_id: i.to_string(), prompt_ids: vec![1; n] };
    lengths.iter().enumerate().map(request).collect()
}

/// Answers every draw of a step with token 65.
fn answer(schedule: &mut Schedule<'_>) {
    let picks = [Pick { id: 65, logprob: 0.0 }; 8];
    let samples = schedule.limits.samples;
    let rows = schedule.running();
    let stop = StopRule::default();
    schedule.postprocess(|draw| &picks[..if draw < rows { 1 } else { samples }], &stop, &FakeText).unwrap();
}

fn shape(schedule: &Schedule<'_>) -> Vec<(usize, usize)> {
    schedule.batch().rows.iter().map(|row| (row.context, row.new_tokens)).collect()
}

#[test]
fn prompts_are_cut_to_what_running_rows_leave_of_the_budget() {
    let requests = requests(&[10, 7]);
    let mut schedule = Schedule::new(&requests, limits(8, 6, 1, 4), 100);
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
    let requests = requests(&[20]);
    let mut schedule = Schedule::new(&requests, limits(8, 100, 3, 4), 100);
    schedule.next_step().unwrap();
    answer(&mut schedule);
    let copies = schedule.next_step().unwrap();
    let pages: Vec<Vec<u32>> = schedule.batch().rows.iter().map(|row| row.pages.to_vec()).collect();
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].from, copies[1].from);
    let full = pages[0][0];
    // The last fork takes the prompt's page over.
    assert_eq!(pages, [[full, copies[0].to], [full, copies[1].to], [full, copies[0].from]]);
    // Page 0 of the prompt, its last page, two copies: four held, none left reserved.
    assert_eq!(schedule.pages_available(), 96);
}

#[test]
fn a_finished_rows_place_is_taken_in_the_next_step() {
    // Two tokens per response: the first with the prompt, the second in the batch.
    let requests = requests(&[3; 12]);
    let mut schedule = Schedule::new(&requests, limits(2, 100, 2, 2), 100);
    let mut running = Vec::new();
    while !schedule.is_done() {
        schedule.next_step().unwrap();
        running.push(schedule.running());
        answer(&mut schedule);
    }
    assert_eq!(running.iter().sum::<usize>(), 24);
    assert!(running[1..].iter().all(|&rows| rows == 2), "{running:?}");
    assert_eq!(schedule.pages_available(), 100);
}

#[test]
fn a_pool_of_one_candidate_is_enough() {
    let requests = requests(&[40, 3, 17, 40]);
    let limits = limits(8, 16, 3, 30);
    let pages = limits.pool_pages(&requests, 0);
    // 40 tokens hold three pages, two of them full; 69 cached positions hold five, so three private ones.
    assert_eq!(pages, 6);
    let mut schedule = Schedule::new(&requests, limits, pages);
    while !schedule.is_done() {
        schedule.next_step().unwrap();
        answer(&mut schedule);
    }
    assert_eq!(schedule.pages_available(), pages);
    let results = schedule.into_results().unwrap();
    assert!(results.iter().all(|row| row.len() == 3 && row.iter().all(|sample| sample.ids.len() == 30)));
}

#[test]
fn the_pool_is_no_greater_than_the_requests_need() {
    let limits = limits(64, 1000, 2, 17);
    assert_eq!(limits.pool_pages(&requests(&[16, 16]), 1_000_000), 2 * (1 + 2));
    assert_eq!(limits.pool_pages(&requests(&[16, 16]), 4), 4);
    assert_eq!(limits.pool_pages(&[], 4), 0);
}
