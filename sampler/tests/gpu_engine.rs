//! The engine over the GPU's forms, run by the emulator: requests of different rules in the same captured steps.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use selfplay_model::gpu::emulate;
use selfplay_model::{Decoder, KvFormat, ModelError};
use selfplay_records::{Candidates, Prompt};
use selfplay_sampler::{
    Backend, Capacity, EncodedPrompt, Engine, NativeBackend, Request, RequestEvent, RequestId, Sample,
    SampleSettings, Sampler, Sampling, Stop, StopRule, TextDecoder, WantedLogProbs,
};
use selfplay_testing::decoder::config;
use selfplay_testing::{Emulator, LateEmulator};
use serde_json::json;

const VOCAB: usize = 130;

/// One letter a token.
struct Letters;

impl TextDecoder for Letters {
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        Ok(ids.iter().filter_map(|&id| char::from_u32(0x100 + id)).collect())
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

fn decoder() -> Decoder {
    let mut decoder = selfplay_testing::decoder(&config(json!({"vocab_size": VOCAB})), 5);
    decoder.set_batch_invariant(true);
    decoder
}

fn request(number: usize, tokens: usize, sampling: Sampling, stops: &[Stop]) -> Request {
    Request {
        prompt_id: number.to_string(),
        prompt_ids: (0..tokens).map(|place| ((number * 31 + place * 7) % VOCAB) as u32).collect(),
        sampling,
        stop: Arc::new(StopRule::new(&Letters, &[2], stops, VOCAB).unwrap()),
        logprobs: WantedLogProbs::default(),
    }
}

/// Greedy beside temperatures and every filter; other seeds, stop strings and limits.
fn mixed() -> Vec<Request> {
    let plain =
        Sampling { num_samples: 2, temperature: 1.0, top_p: 1.0, max_new_tokens: 8, ..Sampling::default() };
    let letters: Vec<Stop> =
        (40..60).map(|id| Stop::Text(char::from_u32(0x100 + id).unwrap().into())).collect();
    vec![
        request(0, 20, Sampling { temperature: 0.0, num_samples: 1, ..plain }, &[]),
        request(1, 33, Sampling { temperature: 1.3, ..plain }, &[]),
        request(2, 16, Sampling { temperature: 0.7, top_k: 5, ..plain }, &letters),
        request(3, 1, Sampling { top_p: 0.5, seed: 43, max_new_tokens: 5, ..plain }, &[Stop::Id(9)]),
        request(4, 17, Sampling { temperature: 1.5, min_p: 0.2, iteration: 9, ..plain }, &[]),
        request(5, 5, Sampling { temperature: 0.0, num_samples: 1, max_new_tokens: 7, ..plain }, &letters),
    ]
}

/// How steps are run.
#[derive(Clone, Copy, PartialEq)]
enum StepForm {
    Captured,
    KernelByKernel,
    /// Each is read before the next one is begun.
    OneByOne,
}

/// The samples of every request. Each comes `apart` steps after the one before; `pages` is the memory for keys and values.
fn answers(
    decoder: &Decoder,
    requests: &[Request],
    apart: usize,
    pages: usize,
    steps: StepForm,
) -> Vec<Vec<Sample>> {
    answers_over(decoder.dtype().into(), decoder, requests, apart, pages, steps)
}

/// [`answers`] over keys and values of this format.
fn answers_over(
    format: KvFormat,
    decoder: &Decoder,
    requests: &[Request],
    apart: usize,
    pages: usize,
    steps: StepForm,
) -> Vec<Vec<Sample>> {
    let backend = NativeBackend::new(decoder).with_kv_format(format);
    let backend = match steps {
        StepForm::Captured => backend,
        StepForm::KernelByKernel => backend.without_graphs(),
        StepForm::OneByOne => backend.one_by_one(),
    };
    let capacity = Capacity { rows: 16, token_budget: 64, cache_bytes: pages * backend.page_bytes() };
    let mut engine = Engine::new(Box::new(backend), &Letters, capacity);
    let mut samples: BTreeMap<RequestId, Vec<Sample>> = BTreeMap::new();
    let mut step = |engine: &mut Engine<'_>| {
        for event in engine.step().unwrap() {
            match event {
                RequestEvent::Prompt { .. } | RequestEvent::Token { .. } => {}
                RequestEvent::Finished { request, sample } => {
                    samples.entry(request).or_default().push(sample)
                }
                RequestEvent::Failed { error, .. } => panic!("{error}"),
            }
        }
    };
    for request in requests {
        engine.add(request.clone()).unwrap();
        (0..apart).for_each(|_| step(&mut engine));
    }
    while !engine.is_idle() {
        step(&mut engine);
    }
    samples.values_mut().for_each(|samples| samples.sort_by_key(|sample| sample.sample));
    samples.into_values().collect()
}

#[test]
fn requests_of_different_rules_share_captured_steps() {
    let (decoder, requests) = (decoder(), mixed());
    let on_cpu = answers(&decoder, &requests, 0, 100, StepForm::Captured);
    let Some(_gpu) = Emulator::start() else { return };
    let captured = answers(&decoder, &requests, 0, 100, StepForm::Captured);
    // Kernel by kernel, at other times and with hardly any memory: the same bits.
    assert_eq!(captured, answers(&decoder, &requests, 0, 100, StepForm::KernelByKernel), "kernel by kernel");
    assert_eq!(captured, answers(&decoder, &requests, 0, 100, StepForm::OneByOne), "no step ahead");
    assert_eq!(captured, answers(&decoder, &requests, 2, 100, StepForm::Captured), "one after the other");
    assert_eq!(
        captured,
        answers(&decoder, &requests, 0, 8, StepForm::Captured),
        "with pages of one candidate"
    );
    for (request, want) in requests.iter().zip(&captured) {
        let alone = answers(&decoder, std::slice::from_ref(request), 0, 100, StepForm::Captured);
        assert_eq!(alone, std::slice::from_ref(want), "prompt {} alone", request.prompt_id);
    }
    // The CPU's choices, whose log-probs differ by rounding.
    let tokens = |answers: &[Vec<Sample>]| -> Vec<Vec<u32>> {
        answers.iter().flatten().map(|sample| sample.ids.clone()).collect()
    };
    assert_eq!(tokens(&captured), tokens(&on_cpu));
    let lengths: Vec<usize> = captured.iter().flatten().map(|sample| sample.ids.len()).collect();
    assert!(lengths.contains(&8) && lengths.iter().any(|&length| length < 5), "{lengths:?}");
}

/// Keys and values in FP8: the CPU's choices, and the same bits captured or not, and whoever is preempted.
#[test]
fn an_fp8_cache_gives_the_same_bits_in_any_step() {
    let (decoder, requests) = (decoder(), mixed());
    let run = |pages, steps| answers_over(KvFormat::Fp8, &decoder, &requests, 0, pages, steps);
    let on_cpu = run(100, StepForm::Captured);
    let exact = answers(&decoder, &requests, 0, 100, StepForm::Captured);
    assert!(on_cpu != exact, "nothing was rounded");
    let Some(_gpu) = Emulator::start() else { return };
    let captured = run(100, StepForm::Captured);
    assert_eq!(captured, run(100, StepForm::KernelByKernel), "kernel by kernel");
    assert_eq!(captured, run(8, StepForm::Captured), "with pages of one candidate");
    let tokens = |answers: &[Vec<Sample>]| -> Vec<Vec<u32>> {
        answers.iter().flatten().map(|sample| sample.ids.clone()).collect()
    };
    assert_eq!(tokens(&captured), tokens(&on_cpu));
    for (got, want) in captured.iter().flatten().zip(on_cpu.iter().flatten()) {
        for (got, want) in got.logprobs.iter().zip(&want.logprobs) {
            assert!((got - want).abs() < 1e-4, "{got} for {want}");
        }
    }
}

/// A device that has done nothing before somebody waits for it: whatever the host reads too early, or changes while a copy of it
/// is under way, would show.
#[test]
fn a_device_that_is_late_gives_the_same_bits_with_one_wait_a_step() {
    let (decoder, requests) = (decoder(), mixed());
    let want = {
        let Some(_gpu) = Emulator::start() else { return };
        answers(&decoder, &requests, 0, 100, StepForm::OneByOne)
    };
    let Some(late) = LateEmulator::build() else { return };
    let run = |steps, apart, pages| {
        let before = late.counts();
        let _gpu = emulate(Arc::new(late.clone()));
        assert_eq!(answers(&decoder, &requests, apart, pages, steps), want);
        let after = late.counts();
        (after.waits - before.waits, after.drained - before.drained)
    };
    let (waits, drained) = run(StepForm::Captured, 0, 100);
    let tokens: usize = want.iter().flatten().map(|sample| sample.ids.len()).max().unwrap_or(0);
    // A step for each token of the longest candidate, and those in which prompts are read; only after the last of them is nothing left.
    assert!(waits >= tokens && waits <= tokens + 5, "{waits} waits for {tokens} tokens");
    assert_eq!(drained, 1);
    // One by one, every wait leaves the device without work.
    let (waits, drained) = run(StepForm::OneByOne, 0, 100);
    assert_eq!(waits, drained);
    run(StepForm::KernelByKernel, 0, 100);
    run(StepForm::Captured, 2, 100);
    let (waits, drained) = run(StepForm::Captured, 0, 8);
    assert!(drained < waits, "with hardly any pages some steps are begun ahead");
}

/// One sampler for prompts of any length: what was captured for short ones is there after the cache grew for long ones.
#[test]
fn a_cache_that_grows_costs_no_captures() {
    let decoder = decoder();
    let Some(late) = LateEmulator::build() else { return };
    let _gpu = emulate(Arc::new(late.clone()));
    let backend = || Box::new(NativeBackend::new(&decoder));
    let settings = SampleSettings {
        num_samples: 2,
        max_new_tokens: 6,
        capacity: Some(Capacity { rows: 8, token_budget: 40, cache_bytes: 1000 * backend().page_bytes() }),
        ..SampleSettings::default()
    };
    let sampler = || Sampler::with_backend(backend(), &Letters, &[2], &settings).unwrap();
    let prompts: Vec<Prompt> =
        (0..6).map(|i| Prompt { prompt_id: i.to_string(), ..Prompt::default() }).collect();
    let mut lasting = sampler();
    let sample = |sampler: &mut Sampler<'_>, tokens: usize| -> Vec<Candidates> {
        let ids = |i: usize| (0..tokens).map(|place| ((i * 31 + place * 7) % VOCAB) as u32).collect();
        let encode = |(i, prompt)| EncodedPrompt { prompt, prompt_ids: ids(i) };
        let encoded: Vec<EncodedPrompt<'_>> = prompts.iter().enumerate().map(encode).collect();
        sampler.generate(&encoded, &mut |_| ControlFlow::Continue(())).unwrap()
    };
    let captures = || late.counts().captures;
    let short = sample(&mut lasting, 10);
    // A size is captured when it is seen for the third time at the latest.
    (0..2).for_each(|_| drop(sample(&mut lasting, 10)));
    let settled = captures();
    assert_eq!(sample(&mut lasting, 10), short);
    assert!(settled > 0 && captures() == settled, "{settled} captures, then {}", captures());
    let long = sample(&mut lasting, 30);
    let of_long = captures();
    assert_eq!(sample(&mut lasting, 10), short);
    assert_eq!(captures(), of_long, "the short ones were captured again");
    assert_eq!((sample(&mut sampler(), 10), sample(&mut sampler(), 30)), (short, long));
}
