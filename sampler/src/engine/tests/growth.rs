//! A cache that grows while requests hold its pages.

use super::*;
use crate::backend::late::LateModel;

/// Pages that each row of each step reads.
type Steps = Vec<Vec<Vec<u32>>>;

fn of_model(model: FakeModel, is_late: bool, capacity: Capacity) -> Engine<'static> {
    match is_late {
        true => Engine::new(Box::new(LateModel::new(model).0), &FakeText, capacity),
        false => Engine::new(Box::new(model), &FakeText, capacity),
    }
}

/// Runs the requests, each `apart` steps after the one before; how often the cache has grown meanwhile.
fn run(engine: &mut Engine<'_>, requests: &[Request], apart: usize) -> (Seen, Vec<RequestId>, Steps, usize) {
    let (mut seen, mut ids, mut steps, mut grown) = (Seen::default(), Vec::new(), Steps::new(), 0);
    let mut pages = engine.pages();
    while ids.len() < requests.len() || !engine.is_idle() {
        if ids.len() < requests.len() && steps.len() >= ids.len() * apart {
            ids.push(engine.add(requests[ids.len()].clone()).unwrap());
        }
        seen.step(engine);
        steps.push(engine.schedule().batch().rows.iter().map(|row| row.pages.to_vec()).collect());
        grown += usize::from(engine.pages() > pages);
        pages = engine.pages();
    }
    (seen, ids, steps, grown)
}

/// Every step is that of a cache that had all its pages from the start, to the pages' numbers.
#[test]
fn steps_do_not_tell_that_the_cache_grew() {
    let mut random = Random::new(23);
    let mut all_grown = 0;
    for case in 0..60 {
        let is_late = case % 2 == 0;
        let mut requests = mixed();
        let turn = random.below(requests.len());
        requests.rotate_left(turn);
        let capacity = capacity(1 + random.below(16), 16 + random.below(70), 600);
        let apart = random.below(5);
        let fresh = || of_model(FakeModel::new(VOCAB, CONTEXT), is_late, capacity);
        let (mut whole, mut open) = (fresh(), fresh());
        whole.reserve(600).unwrap();
        let (_, _, want, grown) = run(&mut whole, &requests, apart);
        assert_eq!(grown, 0);
        let (seen, ids, got, grown) = run(&mut open, &requests, apart);
        assert!(got == want, "case {case}: other steps than with all pages");
        for (&id, request) in ids.iter().zip(&requests) {
            assert_eq!(seen.samples(id), all_by_hand(request), "case {case}");
        }
        assert!(open.pages() < 500, "{} pages", open.pages());
        all_grown += grown;
    }
    assert!(all_grown > 120, "{all_grown}");
}

/// Where the memory ends before the capacity does, requests share what there is.
#[test]
fn a_cache_that_cannot_grow_is_shared() {
    for is_late in [false, true] {
        let mut model = FakeModel::new(VOCAB, CONTEXT);
        model.memory_pages = 9;
        let mut engine = of_model(model, is_late, capacity(12, 64, 3000));
        let requests = mixed();
        let (seen, ids, ..) = run(&mut engine, &requests, 0);
        for (&id, request) in ids.iter().zip(&requests) {
            assert_eq!(seen.samples(id), all_by_hand(request));
        }
        assert!(engine.pages() <= 9 && engine.counts().preemptions > 0, "{} pages", engine.pages());
    }
}

#[test]
fn an_idle_engine_gives_its_pages_back() {
    for is_late in [false, true] {
        let mut engine = of_model(FakeModel::new(VOCAB, CONTEXT), is_late, capacity(12, 64, 3000));
        let requests = mixed();
        engine.add(requests[0].clone()).unwrap();
        let mut seen = Seen::default();
        seen.step(&mut engine);
        let pages = engine.pages();
        engine.release_pages().unwrap();
        assert!(pages > 0 && engine.pages() == pages, "a request holds them");
        while !engine.is_idle() {
            seen.step(&mut engine);
        }
        engine.release_pages().unwrap();
        assert_eq!(engine.pages(), 0);
        let (seen, ids, ..) = run(&mut engine, &requests, 1);
        for (&id, request) in ids.iter().zip(&requests) {
            assert_eq!(seen.samples(id), all_by_hand(request));
        }
        assert!(engine.pages() > 0);
    }
}
