//! The sampler on our own decoder, with random weights: the same properties as on the double.

use selfplay_model::PackedBatch;
use selfplay_records::Prompt;
use selfplay_testing::decoder::config;
use serde_json::json;

use super::tests::samples;
use super::*;
use crate::backend::fake::FakeText;
use crate::{KvCacheDtype, Sample};

const VOCAB: usize = 130;

fn decoder(packed: bool) -> Decoder {
    let mut decoder = selfplay_testing::decoder(&config(json!({"vocab_size": VOCAB})), 5);
    if packed {
        decoder.prepare_inference().unwrap();
    }
    decoder
}

const LENGTHS: [usize; 7] = [1, 15, 16, 17, 33, 60, 5];

fn prompts() -> Vec<Prompt> {
    let numbered = |i: usize| Prompt { prompt_id: i.to_string(), ..Prompt::default() };
    (0..LENGTHS.len()).map(numbered).collect()
}

fn encoded(prompts: &[Prompt]) -> Vec<EncodedPrompt<'_>> {
    let encode = |(i, prompt)| EncodedPrompt {
        prompt,
        prompt_ids: (0..LENGTHS[i]).map(|place| ((i * 31 + place * 7) % VOCAB) as u32).collect(),
    };
    prompts.iter().enumerate().map(encode).collect()
}

/// A backend that keeps keys and values as the settings want it.
fn backend<'a>(decoder: &'a Decoder, settings: &SampleSettings) -> NativeBackend<'a> {
    NativeBackend::new(decoder).with_kv_format(settings.kv_format(decoder.dtype()))
}

/// Weights that are packed or not, and keys and values as they are computed or in FP8.
fn forms() -> [(bool, Option<KvCacheDtype>); 3] {
    [(false, None), (true, None), (true, Some(KvCacheDtype::Fp8))]
}

fn sample(decoder: &Decoder, settings: &SampleSettings, prompts: &[EncodedPrompt<'_>]) -> Vec<Vec<Sample>> {
    let backend = Box::new(backend(decoder, settings));
    let mut sampler = Sampler::with_backend(backend, &FakeText, &[2], settings).unwrap();
    samples(sampler.generate(prompts, &mut |_| ControlFlow::Continue(())).unwrap())
}

#[test]
fn a_processor_is_batch_invariant_and_has_a_fixed_capacity() {
    let decoder = decoder(false);
    let backend = NativeBackend::new(&decoder).with_step(Some(300), None);
    assert!(backend.is_batch_invariant().unwrap());
    assert_eq!(backend.capacity().unwrap(), Capacity::CPU);
}

#[test]
fn a_candidate_has_the_same_bits_in_every_batch() {
    let prompts = prompts();
    let prompts = encoded(&prompts);
    for (packed, kv_cache_dtype) in forms() {
        let decoder = decoder(packed);
        let default = SampleSettings::default();
        let settings = SampleSettings { num_samples: 3, max_new_tokens: 30, kv_cache_dtype, ..default };
        let together = sample(&decoder, &settings, &prompts);
        for (rows, budget) in [(1, 1), (1, 7), (3, 10), (64, 33)] {
            let other =
                SampleSettings { max_batch_rows: Some(rows), token_budget: Some(budget), ..settings.clone() };
            assert_eq!(
                sample(&decoder, &other, &prompts),
                together,
                "packed {packed}, cache {kv_cache_dtype:?}, {rows} rows of {budget}"
            );
        }
        for (prompt, want) in prompts.iter().zip(&together) {
            let alone = sample(&decoder, &settings, std::slice::from_ref(prompt));
            let id = &prompt.prompt.prompt_id;
            assert_eq!(&alone[0], want, "packed {packed}, cache {kv_cache_dtype:?}, prompt {id} alone");
        }
    }
}

/// With a cache of one candidate everybody else is preempted and computed again, in other chunks.
#[test]
fn a_preempted_candidate_has_the_same_bits() {
    let prompts = prompts();
    let prompts = encoded(&prompts);
    for (packed, kv_cache_dtype) in forms() {
        let decoder = decoder(packed);
        let default = SampleSettings::default();
        let settings = SampleSettings { num_samples: 3, max_new_tokens: 40, kv_cache_dtype, ..default };
        let ample = sample(&decoder, &settings, &prompts);
        for token_budget in [5, 1024] {
            // A page of this decoder is far below the MiB that a recipe counts in.
            let backend = backend(&decoder, &settings);
            let cache_bytes = 9 * backend.page_bytes();
            let capacity = Some(Capacity { rows: 64, token_budget, cache_bytes });
            let tight = SampleSettings { capacity, ..settings.clone() };
            let mut sampler = Sampler::with_backend(Box::new(backend), &FakeText, &[2], &tight).unwrap();
            let mut last = SamplingProgress::default();
            let mut note = |progress| {
                last = progress;
                ControlFlow::Continue(())
            };
            let tight = samples(sampler.generate(&prompts, &mut note).unwrap());
            assert_eq!(tight, ample, "packed {packed}, cache {kv_cache_dtype:?}");
            assert!(last.preemptions > 0 && last.recomputed > 0, "{last:?}");
        }
    }
}

/// The sampler's log-probs over keys and values in FP8: apart from the policy's own, and near them.
#[test]
fn log_probs_over_an_fp8_cache_are_near_the_trainers() {
    let prompts = prompts();
    let prompts = encoded(&prompts);
    let decoder = decoder(true);
    let kv_cache_dtype = Some(KvCacheDtype::Fp8);
    let settings =
        SampleSettings { num_samples: 2, max_new_tokens: 30, kv_cache_dtype, ..SampleSettings::default() };
    let (mut off, mut most, mut tokens) = (0.0f32, 0.0f32, 0);
    for (prompt, samples) in prompts.iter().zip(sample(&decoder, &settings, &prompts)) {
        for sample in samples {
            for (got, want) in sample.logprobs.iter().zip(own_log_probs(&decoder, prompt, &sample)) {
                off += (got - want).abs();
                most = most.max((got - want).abs());
                tokens += 1;
            }
        }
    }
    let mean = off / tokens as f32;
    // More than two ways to compute the same numbers differ by.
    assert!(tokens > 100 && mean > 1e-5 && mean < 5e-3 && most < 5e-2, "{mean} {most} of {tokens}");
}

/// The policy's log-probs of a response, as the trainer computes them.
fn own_log_probs(decoder: &Decoder, prompt: &EncodedPrompt<'_>, sample: &Sample) -> Vec<f32> {
    let mut batch = PackedBatch::new();
    batch.push(&[prompt.prompt_ids.clone(), sample.ids.clone()].concat());
    let hidden = decoder.hidden(&batch).unwrap();
    let first = prompt.prompt_ids.len() - 1;
    let rows: Vec<usize> = (first..first + sample.ids.len()).collect();
    decoder.token_log_probs(&hidden, &rows, &sample.ids).unwrap()
}

/// The trainer's log-probs come from [`Decoder::token_log_probs`] on packed sequences without a cache.
#[test]
fn log_probs_are_the_trainers() {
    let prompts = prompts();
    let prompts = encoded(&prompts);
    for packed in [false, true] {
        let decoder = decoder(packed);
        let settings = SampleSettings { num_samples: 2, max_new_tokens: 30, ..SampleSettings::default() };
        for (prompt, samples) in prompts.iter().zip(sample(&decoder, &settings, &prompts)) {
            for sample in samples {
                for (got, want) in sample.logprobs.iter().zip(own_log_probs(&decoder, prompt, &sample)) {
                    assert!((got - want).abs() < 1e-4, "{got} for {want}");
                }
            }
        }
    }
}
