//! A device that draws: steps are begun before the tokens of the last one are read, and nothing else is different.

use std::sync::Mutex;

use super::*;
use crate::backend::late::{LateCounts, LateModel};

fn late_engine(capacity: Capacity) -> (Engine<'static>, Arc<Mutex<LateCounts>>) {
    let (model, counts) = LateModel::new(FakeModel::new(VOCAB, CONTEXT));
    (Engine::new(Box::new(model), &FakeText, capacity), counts)
}

/// With ample pages or hardly any, at once or one after the other, whatever is aborted and whoever wants log-probs: every request
/// has the definition's tokens, and all pages come back.
#[test]
fn a_request_is_the_same_when_its_tokens_are_read_a_step_late() {
    let (mut random, mut preempted, mut aborted, mut dropped, mut read) = (Random::new(17), 0, 0, 0, 0);
    for case in 0..300 {
        let mut requests = mixed();
        let turn = random.below(requests.len());
        requests.rotate_left(turn);
        for request in &mut requests {
            let wants = case % 3 == 0 && random.below(4) == 0;
            request.logprobs = WantedLogProbs { top: usize::from(wants), prompt: wants };
        }
        let pages = if case % 2 == 0 { 6 + random.below(4) } else { 400 };
        let capacity = capacity(1 + random.below(12), 1 + random.below(70), pages);
        let ((mut engine, counts), mut seen) = (late_engine(capacity), Seen::default());
        let at_once = 1 + random.below(requests.len());
        let (mut ids, mut gone) = (Vec::new(), Vec::new());
        while ids.len() < requests.len() || !engine.is_idle() {
            for request in requests.iter().skip(ids.len()).take(at_once) {
                ids.push(engine.add(request.clone()).unwrap());
            }
            seen.step(&mut engine);
            if random.below(40) == 0 {
                let id = ids[random.below(ids.len())];
                if engine.abort(id) {
                    aborted += 1;
                    gone.push((id, seen.tokens.clone()));
                }
                engine.schedule().check_invariants();
            }
        }
        for (&id, request) in ids.iter().zip(&requests) {
            match gone.iter().find(|(gone, _)| *gone == id) {
                None => {
                    assert_eq!(seen.samples(id), all_by_hand(request), "case {case}: {request:?}");
                    let wanted = request.logprobs.prompt.then(|| scored_by_hand(request));
                    assert_eq!(seen.prompts.get(&id), wanted.as_ref(), "case {case}");
                }
                Some((_, tokens)) => {
                    for (key, streamed) in seen.tokens.iter().filter(|(key, _)| key.0 == id) {
                        assert_eq!(tokens.get(key), Some(streamed), "it said something after it was dropped");
                    }
                }
            }
        }
        assert_eq!(engine.schedule().free_pages(), engine.pages());
        let counts = *counts.lock().unwrap();
        assert!(counts.finished <= counts.begun && counts.begun <= counts.finished + 1);
        preempted += engine.counts().preemptions;
        dropped += engine.counts().dropped;
        read += counts.runs;
    }
    println!("{preempted} preemptions, {aborted} aborts, {dropped} tokens dropped, {read} steps of logits");
    assert!(preempted > 100 && aborted > 80 && dropped > 1000 && read > 300);
}

/// One wait a step, always with another step under way: but for the last step, after which there is nothing to do.
#[test]
fn the_host_waits_once_a_step_and_never_leaves_the_device_without_work() {
    let (mut engine, counts) = late_engine(capacity(64, 1024, 400));
    let requests = mixed();
    let ids: Vec<RequestId> = requests.iter().map(|one| engine.add(one.clone()).unwrap()).collect();
    let (mut seen, mut steps) = (Seen::default(), 0);
    while !engine.is_idle() {
        let before = counts.lock().unwrap().finished;
        seen.step(&mut engine);
        steps += 1;
        let now = *counts.lock().unwrap();
        // The first step has nothing to read, the last has what was begun in vain.
        let waits = now.finished - before;
        assert!(waits == usize::from(steps > 1) || engine.is_idle(), "step {steps}: {waits} waits");
    }
    let counts = *counts.lock().unwrap();
    assert_eq!((counts.begun, counts.finished, counts.early), (counts.begun, counts.begun, 1), "{counts:?}");
    assert!(counts.fed > 100, "{counts:?}");
    // A candidate that a stop ended had one more token drawn; one that its limit ended had none.
    let by_a_stop = |(id, request): (&RequestId, &Request)| {
        let limit = request.sampling.max_new_tokens.min(CONTEXT - request.prompt_ids.len());
        seen.samples(*id).iter().filter(|sample| sample.ids.len() < limit).count()
    };
    let stopped: usize = ids.iter().zip(&requests).map(by_a_stop).sum();
    assert!(stopped > 3);
    assert_eq!(engine.counts().dropped, stopped);
}

/// A prompt of ten times what a step leaves for prompts: everybody else draws a token in every step meanwhile.
#[test]
fn a_prompt_longer_than_the_budget_stalls_no_row() {
    let plain = Sampling { num_samples: 3, temperature: 1.2, max_new_tokens: 40, ..Sampling::default() };
    let running = Request { stop: Arc::default(), ..request(0, 5, plain, &[]) };
    let long = request(1, 50, Sampling { num_samples: 1, ..plain }, &[]);
    for is_late in [false, true] {
        let capacity = capacity(8, 8, 400);
        let mut engine = if is_late { late_engine(capacity).0 } else { engine(capacity) };
        let first = engine.add(running.clone()).unwrap();
        let late = usize::from(is_late);
        (0..2 + late).for_each(|_| drop(engine.step().unwrap()));
        let second = engine.add(long.clone()).unwrap();
        let mut steps = 0;
        let mut begins = false;
        while !begins {
            let mut tokens = 0;
            for event in engine.step().unwrap() {
                if let RequestEvent::Token { request, .. } = event {
                    tokens += usize::from(request == first);
                    begins |= request == second;
                }
            }
            assert_eq!(tokens, 3, "step {steps}");
            steps += 1;
        }
        // Three rows leave five of eight tokens for the prompt.
        assert_eq!(steps, 50 / 5 + late);
    }
}

#[test]
fn a_request_that_fails_takes_no_other_with_it_a_step_late() {
    let plain = Sampling { num_samples: 3, temperature: 1.2, max_new_tokens: 30, ..Sampling::default() };
    let mut model = FakeModel::new(VOCAB, CONTEXT);
    model.broken_after = Some(STOP_ID);
    let (model, counts) = LateModel::new(model);
    let mut engine = Engine::new(Box::new(model), &FakeText, capacity(8, 20, 40));
    let mut bad = request(1, 25, plain, &[]);
    bad.prompt_ids.push(STOP_ID);
    let (good, later) = (request(0, 25, plain, &[]), request(2, 25, plain, &[]));
    let ids = [&good, &bad, &later].map(|request| engine.add(request.clone()).unwrap());
    let mut seen = Seen::default();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.samples(ids[0]), all_by_hand(&good));
    assert_eq!(seen.samples(ids[2]), all_by_hand(&later));
    assert!(
        matches!(seen.failed.as_slice(), [(id, SampleError::NotFinite { step: 0, .. })] if *id == ids[1])
    );
    assert_eq!(engine.schedule().free_pages(), engine.pages());
    assert!(counts.lock().unwrap().early < 3);
}

#[test]
fn a_cleared_engine_drops_what_was_begun() {
    let (mut engine, counts) = late_engine(capacity(4, 30, 20));
    for request in mixed() {
        engine.add(request).unwrap();
    }
    let mut seen = Seen::default();
    (0..5).for_each(|_| seen.step(&mut engine));
    engine.clear();
    assert!(engine.is_idle());
    assert_eq!(engine.schedule().free_pages(), engine.pages());
    let other = request(20, 30, Sampling { temperature: 1.0, ..Sampling::default() }, &[]);
    let id = engine.add(other.clone()).unwrap();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.samples(id), all_by_hand(&other));
    let counts = *counts.lock().unwrap();
    assert_eq!(counts.begun, counts.finished + 1);
}
