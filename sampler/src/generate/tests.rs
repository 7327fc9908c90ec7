use proptest::prelude::*;
use selfplay_records::FinishReason;

use super::*;
use crate::Stop;
use crate::fake::{FakeModel, FakeText};

const VOCAB: usize = 40;
const CONTEXT: usize = 90;
const STOP_ID: u32 = 7;

fn settings() -> SampleSettings {
    SampleSettings { num_samples: 3, max_new_tokens: 40, temperature: 1.2, ..SampleSettings::default() }
}

fn request(prompt_id: usize, tokens: usize) -> SampleRequest {
    let prompt_ids = (0..tokens).map(|place| ((prompt_id * 31 + place * 7) % VOCAB) as u32).collect();
    SampleRequest { prompt_id: format!("prompt-{prompt_id}"), prompt_ids }
}

fn sampler(model: FakeModel, settings: &SampleSettings) -> Sampler<'static> {
    Sampler::with_backend(Box::new(model), &FakeText, &[STOP_ID], settings).unwrap()
}

fn sample_with(model: FakeModel, settings: &SampleSettings, requests: &[SampleRequest]) -> Vec<Vec<Sample>> {
    sampler(model, settings).generate(requests, &mut |_| ControlFlow::Continue(())).unwrap()
}

fn sample(settings: &SampleSettings, requests: &[SampleRequest]) -> Vec<Vec<Sample>> {
    sample_with(FakeModel::new(VOCAB, CONTEXT), settings, requests)
}

/// The definition, without cache, batch or schedule.
fn by_hand(settings: &SampleSettings, request: &SampleRequest, sample: usize) -> Sample {
    let model = FakeModel::new(VOCAB, CONTEXT);
    let stream = crate::PromptStream::new(settings.seed, settings.iteration, &request.prompt_id);
    let (mut ids, mut logprobs) = (Vec::new(), Vec::new());
    let mut picker = Picker::default();
    let finish_reason = loop {
        let logits = model.logits(request.prompt_ids.iter().chain(&ids).copied());
        picker.prepare(&logits, &PickRule::new(settings)).unwrap();
        let pick = picker.draw(&logits, stream.uniform(sample as u32, ids.len() as u32));
        ids.push(pick.id);
        logprobs.push(pick.logprob);
        if pick.id == STOP_ID {
            break FinishReason::Stop;
        }
        if ids.len() == settings.max_new_tokens || request.prompt_ids.len() + ids.len() == CONTEXT {
            break FinishReason::Length;
        }
    };
    Sample { sample, ids, logprobs, finish_reason }
}

#[test]
fn every_candidate_is_its_definition() {
    let settings = settings();
    let requests: Vec<SampleRequest> = [1, 15, 16, 17, 48, 80, 89].iter().map(|&n| request(n, n)).collect();
    let got = sample(&settings, &requests);
    for (request, samples) in requests.iter().zip(&got) {
        let want: Vec<Sample> = (0..3).map(|sample| by_hand(&settings, request, sample)).collect();
        assert_eq!(samples, &want, "{}", request.prompt_id);
    }
    let reasons: Vec<FinishReason> = got.iter().flatten().map(|sample| sample.finish_reason).collect();
    assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Length));
}

#[test]
fn samples_seeds_and_iterations_differ() {
    let requests = [request(1, 10)];
    let first = sample(&settings(), &requests);
    assert_ne!(first[0][0].ids, first[0][1].ids);
    assert_ne!(first, sample(&SampleSettings { seed: 43, ..settings() }, &requests));
    assert_ne!(first, sample(&SampleSettings { iteration: 2, ..settings() }, &requests));
}

#[test]
fn greedy_takes_the_greatest_logit() {
    let settings = SampleSettings { temperature: 0.0, max_new_tokens: 1, ..settings() };
    let requests = [request(4, 20)];
    let logits = FakeModel::new(VOCAB, CONTEXT).logits(requests[0].prompt_ids.iter().copied());
    let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let got = sample(&settings, &requests);
    assert_eq!(got[0].len(), 3);
    assert!(got[0].iter().all(|sample| sample.ids == [best as u32]));
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    assert!((f64::from(got[0][0].logprobs[0]) - (f64::from(logits[best]) - sum.ln())).abs() < 1e-6);
}

#[test]
fn the_context_ends_a_response() {
    let settings = SampleSettings { max_new_tokens: 1000, temperature: 0.0, ..settings() };
    let mut sampler =
        Sampler::with_backend(Box::new(FakeModel::new(VOCAB, CONTEXT)), &FakeText, &[], &settings).unwrap();
    let got = sampler.generate(&[request(0, 70)], &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(got[0][0].ids.len(), CONTEXT - 70);
    assert_eq!(got[0][0].finish_reason, FinishReason::Length);
}

#[test]
fn a_stop_string_ends_ids_with_its_last_token_and_text_before_it() {
    let model = || FakeModel::new(128, CONTEXT);
    let plain =
        SampleSettings { temperature: 0.0, num_samples: 1, max_new_tokens: 30, ..SampleSettings::default() };
    let requests = [request(2, 5)];
    let whole = &sample_with(model(), &plain, &requests)[0][0];
    let stop: String = whole.ids[10..13].iter().map(|&id| char::from(id as u8)).collect();
    let settings = SampleSettings { stop: vec![Stop::Text(stop)], ..plain };
    let mut sampler = sampler(model(), &settings);
    let got = sampler.generate(&requests, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(got[0][0].ids, whole.ids[..13]);
    assert_eq!(got[0][0].logprobs, whole.logprobs[..13]);
    assert_eq!(got[0][0].finish_reason, FinishReason::Stop);
    let rows = sampler.candidates(&[Prompt::default()], &requests, got).unwrap();
    assert_eq!(rows[0].responses[0].text, FakeText.decode(&whole.ids[..10]).unwrap());
}

#[test]
fn bad_prompts_are_input_errors_that_name_them() {
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let mut error_of = |bad: SampleRequest| {
        let requests = [request(0, 5), bad];
        let error = sampler.generate(&requests, &mut |_| panic!("a step was made")).unwrap_err();
        assert!(error.is_input());
        error.to_string()
    };
    let empty = error_of(request(1, 0));
    assert!(empty.starts_with("prompt \"prompt-1\": it has no tokens"), "{empty}");
    let long = error_of(request(2, 91));
    assert!(long.contains("\"prompt-2\": 91 tokens") && long.contains("context of 90"), "{long}");
    let outside = error_of(SampleRequest { prompt_id: "x".to_owned(), prompt_ids: vec![1, 40] });
    assert!(outside.contains("prompt_ids[1] is 40") && outside.contains("ends at 39"), "{outside}");
}

#[test]
fn bad_settings_are_input_errors() {
    let settings = SampleSettings { num_samples: 0, top_p: 0.0, ..settings() };
    let error = Sampler::with_backend(Box::new(FakeModel::new(VOCAB, CONTEXT)), &FakeText, &[], &settings);
    let error = error.err().expect("K = 0 is refused");
    assert!(error.is_input());
    assert_eq!(error.to_string().lines().count(), 2);
}

#[test]
fn logits_that_are_not_finite_name_the_prompt() {
    let mut model = FakeModel::new(VOCAB, CONTEXT);
    let bad = request(3, 6);
    model.broken_after = bad.prompt_ids.last().copied();
    let error = sampler(model, &settings()).generate(&[bad], &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert!(!error.is_input());
    assert!(matches!(error, SampleError::NotFinite { prompt_id, step: 0 } if prompt_id == "prompt-3"));
}

#[test]
fn progress_counts_and_can_interrupt() {
    let requests: Vec<SampleRequest> = (0..5).map(|n| request(n, 10 + n)).collect();
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let mut last = Progress::default();
    let got = sampler
        .generate(&requests, &mut |progress| {
            assert!(progress.tokens >= last.tokens && progress.finished >= last.finished);
            last = progress;
            ControlFlow::Continue(())
        })
        .unwrap();
    let tokens = got.iter().flatten().map(|sample| sample.ids.len()).sum();
    assert_eq!(last, Progress { tokens, finished: 15, total: 15, running: 0 });
    let mut steps = 0;
    let stopped = sampler.generate(&requests, &mut |_| {
        steps += 1;
        if steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(SampleError::Interrupted)));
    // The same sampler begins anew as if nothing had been.
    assert_eq!(sampler.generate(&requests, &mut |_| ControlFlow::Continue(())).unwrap(), got);
}

#[test]
fn no_requests_no_results() {
    assert_eq!(sample(&settings(), &[]), Vec::<Vec<Sample>>::new());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_candidate_is_the_same_in_every_batch(
        lengths in prop::collection::vec(1usize..60, 1..12),
        order in any::<prop::sample::Index>(),
        num_samples in 1usize..5,
        max_new_tokens in 1usize..50,
        max_batch_rows in 1usize..9,
        token_budget in 1usize..70,
        cache_mib in 1usize..60,
    ) {
        let alone = SampleSettings { num_samples, max_new_tokens, ..settings() };
        let together = SampleSettings { max_batch_rows, token_budget, cache_mib, ..alone.clone() };
        let mut requests: Vec<SampleRequest> = lengths.iter().enumerate().map(|(i, &n)| request(i, n)).collect();
        let turn = order.index(requests.len());
        requests.rotate_left(turn);
        let got = sample(&together, &requests);
        for (request, samples) in requests.iter().zip(&got) {
            let want: Vec<Sample> = (0..num_samples).map(|sample| by_hand(&alone, request, sample)).collect();
            prop_assert_eq!(samples, &want);
        }
    }
}
