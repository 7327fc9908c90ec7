//! Requests of different rules in one engine, over a model small enough to check by hand.

use std::collections::HashMap;
use std::sync::Arc;

use selfplay_records::{FinishReason, HasKind, Kind};
use selfplay_testing::Random;

use super::*;
use crate::backend::fake::{FakeModel, FakeText};
use crate::{
    PickRule, Picker, PromptStream, Sample, SampledToken, Sampling, ScoredToken, Stop, StopRule,
    WantedLogProbs,
};

const VOCAB: usize = 40;
const CONTEXT: usize = 90;
const STOP_ID: u32 = 7;

fn stop(stops: &[Stop]) -> Arc<StopRule> {
    Arc::new(StopRule::new(&FakeText, &[STOP_ID], stops, VOCAB).unwrap())
}

fn request(number: usize, tokens: usize, sampling: Sampling, stops: &[Stop]) -> Request {
    let prompt_ids = (0..tokens).map(|place| ((number * 31 + place * 7) % VOCAB) as u32).collect();
    let logprobs = WantedLogProbs::default();
    Request { prompt_id: format!("prompt-{number}"), prompt_ids, sampling, stop: stop(stops), logprobs }
}

/// No two alike: greedy beside temperatures, every filter, other seeds, stops, limits and numbers of candidates.
fn mixed() -> Vec<Request> {
    let plain =
        Sampling { num_samples: 2, temperature: 1.0, top_p: 1.0, max_new_tokens: 40, ..Sampling::default() };
    let text = |text: &str| Stop::Text(text.to_owned());
    vec![
        request(0, 20, Sampling { temperature: 0.0, num_samples: 1, ..plain }, &[]),
        request(1, 33, Sampling { temperature: 1.2, num_samples: 3, ..plain }, &[]),
        request(2, 16, Sampling { temperature: 0.7, top_k: 5, max_new_tokens: 60, ..plain }, &[text("!")]),
        request(3, 1, Sampling { top_p: 0.5, seed: 43, num_samples: 4, ..plain }, &[text("#$"), Stop::Id(9)]),
        request(4, 48, Sampling { temperature: 1.5, min_p: 0.2, iteration: 9, ..plain }, &[Stop::Id(12)]),
        request(5, 60, Sampling { max_new_tokens: 1, num_samples: 5, ..plain }, &[]),
        request(6, 15, Sampling { temperature: 0.0, max_new_tokens: 70, ..plain }, &[text("%"), text("&'")]),
        request(7, 89, Sampling { top_k: 2, top_p: 0.9, min_p: 0.01, ..plain }, &[]),
    ]
}

/// The definition, without cache, batch, schedule or neighbours.
fn by_hand(request: &Request, sample: usize) -> Sample {
    let model = FakeModel::new(VOCAB, CONTEXT);
    let Request { prompt_id, prompt_ids, sampling, stop, .. } = request;
    let stream = PromptStream::new(sampling.seed, sampling.iteration, prompt_id);
    let (mut ids, mut logprobs, mut picker) = (Vec::new(), Vec::new(), Picker::default());
    let finish_reason = loop {
        let logits = model.logits(prompt_ids.iter().chain(&ids).copied());
        picker.prepare(&logits, &PickRule::new(sampling)).unwrap();
        let pick = picker.draw(&logits, stream.uniform(sample as u32, ids.len() as u32));
        ids.push(pick.id);
        logprobs.push(pick.logprob);
        if stop.is_stop_id(pick.id) || stop.find(&FakeText.decode(&ids).unwrap()).is_some() {
            break FinishReason::Stop;
        }
        if ids.len() == sampling.max_new_tokens || prompt_ids.len() + ids.len() == CONTEXT {
            break FinishReason::Length;
        }
    };
    Sample { sample, ids, logprobs, finish_reason }
}

fn all_by_hand(request: &Request) -> Vec<Sample> {
    (0..request.sampling.num_samples).map(|sample| by_hand(request, sample)).collect()
}

fn capacity(rows: usize, token_budget: usize, pages: usize) -> Capacity {
    // A page of the fake is one MiB.
    Capacity { rows, token_budget, cache_bytes: pages << 20 }
}

fn engine(capacity: Capacity) -> Engine<'static> {
    Engine::new(Box::new(FakeModel::new(VOCAB, CONTEXT)), &FakeText, capacity)
}

mod growth;
mod late;
mod many_rows;

/// What the events of some steps said, request by request.
#[derive(Default)]
struct Seen {
    tokens: HashMap<(RequestId, usize), Vec<(u32, u32)>>,
    tops: HashMap<(RequestId, usize), Vec<Vec<SampledToken>>>,
    prompts: HashMap<RequestId, Vec<ScoredToken>>,
    finished: HashMap<RequestId, Vec<Sample>>,
    failed: Vec<(RequestId, SampleError)>,
}

impl Seen {
    /// Makes a step; what streamed out of a candidate must be what it ends with.
    fn step(&mut self, engine: &mut Engine<'_>) {
        for event in engine.step().unwrap() {
            match event {
                RequestEvent::Prompt { request, tokens } => {
                    assert!(
                        !self.tokens.contains_key(&(request, 0)),
                        "a prompt comes before its first token"
                    );
                    assert!(self.prompts.insert(request, tokens).is_none(), "a prompt comes once");
                }
                RequestEvent::Token { request, sample, id, logprob, top } => {
                    self.tops.entry((request, sample)).or_default().push(top);
                    self.tokens.entry((request, sample)).or_default().push((id, logprob.to_bits()));
                }
                RequestEvent::Finished { request, sample } => {
                    let streamed = self.tokens.get(&(request, sample.sample)).unwrap();
                    let bits = sample.logprobs.iter().map(|logprob| logprob.to_bits());
                    let whole: Vec<(u32, u32)> = sample.ids.iter().copied().zip(bits).collect();
                    assert_eq!(streamed, &whole);
                    self.finished.entry(request).or_default().push(sample);
                }
                RequestEvent::Failed { request, error } => self.failed.push((request, error)),
            }
        }
        engine.schedule().check_invariants();
    }

    fn samples(&self, id: RequestId) -> Vec<Sample> {
        let mut samples = self.finished.get(&id).cloned().unwrap_or_default();
        samples.sort_by_key(|sample| sample.sample);
        samples
    }
}

#[test]
fn a_request_alone_is_its_definition() {
    for request in mixed() {
        let (mut engine, mut seen) = (engine(Capacity::CPU), Seen::default());
        let id = engine.add(request.clone()).unwrap();
        while !engine.is_idle() {
            seen.step(&mut engine);
        }
        assert_eq!(seen.samples(id), all_by_hand(&request), "{}", request.prompt_id);
    }
    let reasons: Vec<FinishReason> =
        mixed().iter().flat_map(all_by_hand).map(|sample| sample.finish_reason).collect();
    assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Length));
    let by_text = |request: &Request| {
        let ends = |sample: &Sample| request.stop.find(&FakeText.decode(&sample.ids).unwrap()).is_some();
        all_by_hand(request).iter().any(ends)
    };
    assert!(mixed().iter().any(by_text), "no stop string is ever seen");
}

/// All of them at once or one after the other, in any order, with ample pages or hardly any, and again after some were aborted
/// in the middle of their work: the others are the same to the last bit.
#[test]
fn a_request_is_the_same_beside_others_of_other_rules_and_after_an_abort() {
    let (mut random, mut preempted, mut aborted, mut staggered) = (Random::new(3), 0, 0, 0);
    for case in 0..300 {
        let mut requests = mixed();
        let turn = random.below(requests.len());
        requests.rotate_left(turn);
        // The whole context has six pages.
        let pages = if case % 2 == 0 { 6 + random.below(4) } else { 400 };
        let capacity = capacity(1 + random.below(12), 1 + random.below(70), pages);
        let (mut engine, mut seen) = (engine(capacity), Seen::default());
        let at_once = 1 + random.below(requests.len());
        let mut ids = Vec::new();
        let mut dropped = Vec::new();
        while ids.len() < requests.len() || !engine.is_idle() {
            for request in requests.iter().skip(ids.len()).take(at_once) {
                staggered += usize::from(!engine.is_idle());
                ids.push(engine.add(request.clone()).unwrap());
            }
            seen.step(&mut engine);
            if random.below(40) == 0 {
                let id = ids[random.below(ids.len())];
                if engine.abort(id) {
                    aborted += 1;
                    dropped.push((id, seen.tokens.clone()));
                }
                assert!(!engine.abort(id), "it is gone");
                engine.schedule().check_invariants();
            }
        }
        for (&id, request) in ids.iter().zip(&requests) {
            match dropped.iter().find(|(gone, _)| *gone == id) {
                None => assert_eq!(seen.samples(id), all_by_hand(request), "case {case}: {request:?}"),
                Some((_, tokens)) => {
                    // Nothing of it came after it was dropped; what had ended before is right.
                    for (key, streamed) in seen.tokens.iter().filter(|(key, _)| key.0 == id) {
                        assert_eq!(tokens.get(key), Some(streamed));
                    }
                    for sample in seen.samples(id) {
                        assert_eq!(sample, by_hand(request, sample.sample));
                    }
                }
            }
        }
        assert_eq!(engine.schedule().free_pages(), engine.pages());
        assert!(engine.pages() <= pages.max(6));
        preempted += usize::from(engine.counts().preemptions > 0);
    }
    println!(
        "{preempted} of 300 cases preempted somebody, {aborted} aborts, {staggered} requests beside others"
    );
    assert!(preempted > 60 && aborted > 100 && staggered > 200, "{preempted}, {aborted}, {staggered}");
}

/// The definition of a prompt's log-probs.
fn scored_by_hand(request: &Request) -> Vec<ScoredToken> {
    let (model, mut picker, ids) = (FakeModel::new(VOCAB, CONTEXT), Picker::default(), &request.prompt_ids);
    let score = |place: usize| {
        let logits = model.logits(ids[..place].iter().copied());
        picker.prepare(&logits, &PickRule::new(&request.sampling)).unwrap();
        ScoredToken {
            token: picker.token(&logits, ids[place]),
            top: picker.top(&logits, request.logprobs.top),
        }
    };
    (1..ids.len()).map(score).collect()
}

/// Some requests want log-probs of their prompts, or the most likely tokens, beside others that want none: with any budget and
/// preempted or not, everybody has the definition's.
#[test]
fn log_probs_are_their_definition_and_change_no_token() {
    let (mut random, mut preempted) = (Random::new(11), 0);
    for case in 0..200 {
        let mut requests = mixed();
        for request in &mut requests {
            request.logprobs = WantedLogProbs { top: random.below(4), prompt: random.below(2) == 0 };
        }
        let pages = if case % 2 == 0 { 6 + random.below(4) } else { 400 };
        let mut engine = engine(capacity(1 + random.below(12), 1 + random.below(70), pages));
        let mut seen = Seen::default();
        let ids: Vec<RequestId> = requests.iter().map(|one| engine.add(one.clone()).unwrap()).collect();
        while !engine.is_idle() {
            seen.step(&mut engine);
        }
        for (id, request) in ids.iter().zip(&requests) {
            assert_eq!(seen.samples(*id), all_by_hand(request), "case {case}");
            let wanted = request.logprobs.prompt.then(|| scored_by_hand(request));
            assert_eq!(seen.prompts.get(id), wanted.as_ref(), "case {case}");
            for sample in seen.samples(*id) {
                let tops = &seen.tops[&(*id, sample.sample)];
                assert!(tops.iter().all(|top| top.len() == request.logprobs.top));
                for (place, top) in tops.iter().enumerate().filter(|(_, top)| !top.is_empty()) {
                    let model = FakeModel::new(VOCAB, CONTEXT);
                    let context = request.prompt_ids.iter().chain(&sample.ids[..place]).copied();
                    let logits = model.logits(context);
                    let mut picker = Picker::default();
                    picker.prepare(&logits, &PickRule::new(&request.sampling)).unwrap();
                    assert_eq!(top, &picker.top(&logits, request.logprobs.top));
                }
            }
        }
        assert_eq!(engine.free_pages(), engine.pages());
        preempted += usize::from(engine.counts().preemptions > 0);
    }
    assert!(preempted > 40, "{preempted}");
}

#[test]
fn a_long_prompt_s_log_probs_come_in_several_steps() {
    let sampling = Sampling { num_samples: 2, max_new_tokens: 5, ..Sampling::default() };
    // 64 MiB of logits are 16 rows of this vocabulary.
    const MANY: usize = 1 << 20;
    let prompt_ids: Vec<u32> = (0..40).map(|place| place * 13 % 40).collect();
    let logprobs = WantedLogProbs { top: 1, prompt: true };
    let one = Request { prompt_ids, logprobs, ..request(0, 1, sampling, &[]) };
    let mut engine = Engine::new(Box::new(FakeModel::new(MANY, CONTEXT)), &FakeText, capacity(4, 1000, 400));
    engine.add(one.clone()).unwrap();
    engine.add(request(1, 20, sampling, &[])).unwrap();
    let mut rows = Vec::new();
    let mut scored = Vec::new();
    while !engine.is_idle() && scored.is_empty() {
        let events = engine.step().unwrap();
        rows.push(engine.schedule().batch().logit_rows.len());
        for event in events {
            if let RequestEvent::Prompt { tokens, .. } = event {
                scored = tokens;
            }
        }
    }
    assert_eq!(scored.len(), 39);
    assert_eq!(rows, [16, 16, 8 + 1], "the second prompt follows in the step that ends the first");
}

#[test]
fn rows_of_all_rules_share_a_step() {
    let (mut engine, mut seen) = (engine(capacity(64, 1024, 400)), Seen::default());
    for request in mixed() {
        engine.add(request).unwrap();
    }
    let mut together = 0;
    while !engine.is_idle() {
        seen.step(&mut engine);
        together = together.max(engine.schedule().batch().draws.len());
    }
    // All but the request of a single token and that of the last position.
    assert!(together >= 14, "{together}");
}

#[test]
fn a_request_that_fails_takes_no_other_with_it() {
    let plain = Sampling { num_samples: 3, temperature: 1.2, max_new_tokens: 30, ..Sampling::default() };
    // Logits after the stop token are broken: only a prompt can end with it.
    let mut model = FakeModel::new(VOCAB, CONTEXT);
    model.broken_after = Some(STOP_ID);
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
    assert_eq!(seen.samples(ids[1]), []);
    let [(id, SampleError::NotFinite { prompt_id, step: 0 })] = seen.failed.as_slice() else {
        panic!("{:?}", seen.failed)
    };
    assert_eq!((*id, prompt_id.as_str()), (ids[1], "prompt-1"));
    assert_eq!(engine.schedule().free_pages(), engine.pages());
}

#[test]
fn a_request_that_fails_in_its_middle_is_aborted_with_all_its_candidates() {
    let sampling = Sampling { num_samples: 4, temperature: 1.2, max_new_tokens: 60, ..Sampling::default() };
    let one = Request { stop: Arc::default(), ..request(0, 10, sampling, &[]) };
    // The token that one candidate draws at some time.
    let mut model = FakeModel::new(VOCAB, CONTEXT);
    model.broken_after = Some(by_hand(&Request { stop: stop(&[]), ..one.clone() }, 2).ids[0]);
    let mut engine = Engine::new(Box::new(model), &FakeText, capacity(8, 20, 40));
    let id = engine.add(one).unwrap();
    let mut seen = Seen::default();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.failed.len(), 1, "a request fails once: {:?}", seen.failed);
    assert!(
        matches!(&seen.failed[0], (failed, SampleError::NotFinite { step, .. }) if *failed == id && *step > 0)
    );
    assert_eq!(engine.schedule().free_pages(), engine.pages());
}

#[test]
fn a_bad_request_is_refused_and_the_others_go_on() {
    let good = request(0, 5, Sampling { max_new_tokens: 3, ..Sampling::default() }, &[]);
    let mut engine = engine(Capacity::CPU);
    let id = engine.add(good.clone()).unwrap();
    let settings = Sampling { num_samples: 0, top_p: 2.0, ..Sampling::default() };
    let refused = engine.add(Request { sampling: settings, ..good.clone() }).unwrap_err();
    assert!(refused.kind() == Kind::Input);
    assert_eq!(refused.to_string().lines().count(), 2);
    let empty = engine.add(Request { prompt_ids: vec![], ..good.clone() }).unwrap_err();
    assert!(matches!(empty, SampleError::EmptyPrompt { .. }));
    let long = engine.add(Request { prompt_ids: vec![1; CONTEXT], ..good.clone() }).unwrap_err();
    assert!(matches!(long, SampleError::PromptTooLong { length: CONTEXT, .. }));
    let outside = engine.add(Request { prompt_ids: vec![VOCAB as u32], ..good.clone() }).unwrap_err();
    assert!(matches!(outside, SampleError::TokenOutside { position: 0, .. }));
    assert_eq!(engine.waiting(), 1);
    let mut seen = Seen::default();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.samples(id), all_by_hand(&good));
    assert!(engine.step().unwrap().is_empty(), "nothing to do, nothing done");
}

#[test]
fn a_cleared_engine_begins_anew() {
    let mut engine = engine(capacity(4, 30, 20));
    for request in mixed() {
        engine.add(request).unwrap();
    }
    let mut seen = Seen::default();
    (0..5).for_each(|_| seen.step(&mut engine));
    assert!(!engine.schedule().begun_requests().is_empty());
    engine.clear();
    engine.schedule().check_invariants();
    assert!(engine.is_idle());
    assert_eq!(engine.schedule().free_pages(), engine.pages());
    let other = request(20, 30, Sampling { temperature: 1.0, ..Sampling::default() }, &[]);
    let id = engine.add(other.clone()).unwrap();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.samples(id), all_by_hand(&other));
}

#[test]
fn a_pool_of_known_requests_grows_for_one_that_was_not_known() {
    let small = request(0, 5, Sampling { temperature: 1.0, max_new_tokens: 30, ..Sampling::default() }, &[]);
    let large = request(1, 70, small.sampling, &[]);
    let mut engine = engine(capacity(8, 100, 50));
    engine.reserve(3).unwrap();
    let ids = [&small, &large].map(|request| engine.add(request.clone()).unwrap());
    let mut seen = Seen::default();
    while !engine.is_idle() {
        seen.step(&mut engine);
    }
    assert_eq!(seen.samples(ids[0]), all_by_hand(&small));
    assert_eq!(seen.samples(ids[1]), all_by_hand(&large));
    assert_eq!(engine.schedule().free_pages(), engine.pages());
    assert!(engine.pages() > 3 && engine.pages() < 50, "{}", engine.pages());
}
