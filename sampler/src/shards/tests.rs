//! The sampler over a model small enough to check by hand.
//!
//! Past 400 lines because the cases are one list, read side by side.

use proptest::prelude::*;
use selfplay_records::{FinishReason, HasKind, Kind, Prompt};
use selfplay_testing::Random;

use super::*;
use crate::backend::fake::{FakeModel, FakeText};
use crate::schedule::Counts;
use crate::{PickRule, Picker, Sample, Stop};

const VOCAB: usize = 40;
const CONTEXT: usize = 90;
const STOP_ID: u32 = 7;

fn settings() -> SampleSettings {
    SampleSettings { num_samples: 3, max_new_tokens: 40, temperature: 1.2, ..SampleSettings::default() }
}

/// A prompt with the tokens that it is encoded as.
fn prompt(number: usize, tokens: usize) -> Prompt {
    let prompt_ids = (0..tokens).map(|place| ((number * 31 + place * 7) % VOCAB) as u32).collect();
    Prompt { prompt_id: format!("prompt-{number}"), prompt_ids: Some(prompt_ids), ..Prompt::default() }
}

/// As [`crate::encode`] does it, without a tokenizer.
fn encoded(prompts: &[Prompt]) -> Vec<EncodedPrompt<'_>> {
    let encode = |prompt| EncodedPrompt { prompt, prompt_ids: ids(prompt).to_vec() };
    prompts.iter().map(encode).collect()
}

fn ids(prompt: &Prompt) -> &[u32] {
    prompt.prompt_ids.as_deref().unwrap_or_default()
}

/// The responses of some rows.
pub(super) fn samples(rows: Vec<Candidates>) -> Vec<Vec<Sample>> {
    let of_row = |row: Candidates| {
        let responses = row.responses.into_iter().enumerate();
        let sample = responses.map(|(sample, response)| Sample {
            sample,
            ids: response.ids.unwrap(),
            logprobs: response.logprobs.unwrap(),
            finish_reason: response.finish_reason.unwrap(),
        });
        sample.collect()
    };
    rows.into_iter().map(of_row).collect()
}

fn sampler(model: FakeModel, settings: &SampleSettings) -> Sampler<'static> {
    Sampler::with_backend(Box::new(model), &FakeText, &[STOP_ID], settings).unwrap()
}

fn generate(sampler: &mut Sampler<'_>, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    samples(sampler.generate(&encoded(prompts), &mut |_| ControlFlow::Continue(())).unwrap())
}

fn sample_with(model: FakeModel, settings: &SampleSettings, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    generate(&mut sampler(model, settings), prompts)
}

fn sample(settings: &SampleSettings, prompts: &[Prompt]) -> Vec<Vec<Sample>> {
    sample_with(FakeModel::new(VOCAB, CONTEXT), settings, prompts)
}

/// The definition, without cache, batch or schedule.
fn by_hand(settings: &SampleSettings, prompt: &Prompt, sample: usize) -> Sample {
    let model = FakeModel::new(VOCAB, CONTEXT);
    let stream = crate::PromptStream::new(settings.seed, settings.iteration, &prompt.prompt_id);
    let (mut response, mut logprobs) = (Vec::new(), Vec::new());
    let mut picker = Picker::default();
    let finish_reason = loop {
        let logits = model.logits(ids(prompt).iter().chain(&response).copied());
        picker.prepare(&logits, &PickRule::new(&settings.sampling())).unwrap();
        let pick = picker.draw(&logits, stream.uniform(sample as u32, response.len() as u32));
        response.push(pick.id);
        logprobs.push(pick.logprob);
        if pick.id == STOP_ID {
            break FinishReason::Stop;
        }
        if response.len() == settings.max_new_tokens || ids(prompt).len() + response.len() == CONTEXT {
            break FinishReason::Length;
        }
    };
    Sample { sample, ids: response, logprobs, finish_reason }
}

#[test]
fn every_candidate_is_its_definition() {
    let settings = settings();
    let prompts: Vec<Prompt> = [1, 15, 16, 17, 48, 80, 89].iter().map(|&n| prompt(n, n)).collect();
    let got = sample(&settings, &prompts);
    for (prompt, samples) in prompts.iter().zip(&got) {
        let want: Vec<Sample> = (0..3).map(|sample| by_hand(&settings, prompt, sample)).collect();
        assert_eq!(samples, &want, "{}", prompt.prompt_id);
    }
    let reasons: Vec<FinishReason> = got.iter().flatten().map(|sample| sample.finish_reason).collect();
    assert!(reasons.contains(&FinishReason::Stop) && reasons.contains(&FinishReason::Length));
}

#[test]
fn samples_seeds_and_iterations_differ() {
    let prompts = [prompt(1, 10)];
    let first = sample(&settings(), &prompts);
    assert_ne!(first[0][0].ids, first[0][1].ids);
    assert_ne!(first, sample(&SampleSettings { seed: 43, ..settings() }, &prompts));
    assert_ne!(first, sample(&SampleSettings { iteration: 2, ..settings() }, &prompts));
}

#[test]
fn greedy_takes_the_greatest_logit() {
    let settings = SampleSettings { temperature: 0.0, max_new_tokens: 1, ..settings() };
    let prompts = [prompt(4, 20)];
    let logits = FakeModel::new(VOCAB, CONTEXT).logits(ids(&prompts[0]).iter().copied());
    let best = (0..VOCAB).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let got = sample(&settings, &prompts);
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
    let got = generate(&mut sampler, &[prompt(0, 70)]);
    assert_eq!(got[0][0].ids.len(), CONTEXT - 70);
    assert_eq!(got[0][0].finish_reason, FinishReason::Length);
}

#[test]
fn a_stop_string_ends_ids_with_its_last_token_and_text_before_it() {
    let model = || FakeModel::new(128, CONTEXT);
    let plain =
        SampleSettings { temperature: 0.0, num_samples: 1, max_new_tokens: 30, ..SampleSettings::default() };
    let prompts = [prompt(2, 5)];
    let whole = &sample_with(model(), &plain, &prompts)[0][0];
    let stop: String = whole.ids[10..13].iter().map(|&id| char::from(id as u8)).collect();
    let settings = SampleSettings { stop: vec![Stop::Text(stop)], ..plain };
    let mut sampler = sampler(model(), &settings);
    let rows = sampler.generate(&encoded(&prompts), &mut |_| ControlFlow::Continue(())).unwrap();
    let got = samples(rows.clone());
    assert_eq!(got[0][0].ids, whole.ids[..13]);
    assert_eq!(got[0][0].logprobs, whole.logprobs[..13]);
    assert_eq!(got[0][0].finish_reason, FinishReason::Stop);
    assert_eq!(rows[0].prompt, prompts[0]);
    assert_eq!(rows[0].responses[0].text, FakeText.decode(&whole.ids[..10]).unwrap());
}

#[test]
fn bad_prompts_are_input_errors_that_name_them() {
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let mut error_of = |bad: Prompt| {
        let prompts = [prompt(0, 5), bad];
        let error = sampler.generate(&encoded(&prompts), &mut |_| panic!("a step was made")).unwrap_err();
        assert!(error.kind() == Kind::Input);
        error.to_string()
    };
    let empty = error_of(prompt(1, 0));
    assert!(empty.starts_with("prompt \"prompt-1\": it has no tokens"), "{empty}");
    let long = error_of(prompt(2, 91));
    assert!(long.contains("\"prompt-2\": 91 tokens") && long.contains("context of 90"), "{long}");
    let outside =
        error_of(Prompt { prompt_id: "x".to_owned(), prompt_ids: Some(vec![1, 40]), ..Prompt::default() });
    assert!(outside.contains("prompt_ids[1] is 40") && outside.contains("ends at 39"), "{outside}");
}

#[test]
fn bad_settings_are_input_errors() {
    let settings = SampleSettings { num_samples: 0, top_p: 0.0, ..settings() };
    let error = Sampler::with_backend(Box::new(FakeModel::new(VOCAB, CONTEXT)), &FakeText, &[], &settings);
    let error = error.err().expect("K = 0 is refused");
    assert!(error.kind() == Kind::Input);
    assert_eq!(error.to_string().lines().count(), 2);
}

#[test]
fn logits_that_are_not_finite_name_the_prompt() {
    let mut model = FakeModel::new(VOCAB, CONTEXT);
    let bad = prompt(3, 6);
    model.broken_after = ids(&bad).last().copied();
    let error = sampler(model, &settings()).generate(&encoded(&[bad]), &mut no_progress).unwrap_err();
    assert!(error.kind() != Kind::Input);
    assert!(matches!(error, SampleError::NotFinite { prompt_id, step: 0 } if prompt_id == "prompt-3"));
}

#[test]
fn progress_counts_and_can_interrupt() {
    let prompts: Vec<Prompt> = (0..5).map(|n| prompt(n, 10 + n)).collect();
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let mut last = SamplingProgress::default();
    let got = sampler
        .generate(&encoded(&prompts), &mut |progress| {
            assert!(progress.tokens >= last.tokens && progress.finished >= last.finished);
            last = progress;
            ControlFlow::Continue(())
        })
        .unwrap();
    let got = samples(got);
    let tokens = got.iter().flatten().map(|sample| sample.ids.len()).sum();
    assert_eq!(last, SamplingProgress { tokens, finished: 15, total: 15, ..SamplingProgress::default() });
    let mut steps = 0;
    let stopped = sampler.generate(&encoded(&prompts), &mut |_| {
        steps += 1;
        if steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(SampleError::Interrupted)));
    // The same sampler begins anew as if nothing had been.
    assert_eq!(generate(&mut sampler, &prompts), got);
}

#[test]
fn no_prompts_no_results() {
    assert_eq!(sample(&settings(), &[]), Vec::<Vec<Sample>>::new());
}

fn no_progress(_: SamplingProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// As [`Sampler::generate`] with so many pages, looking after everybody's pages between steps.
fn sample_with_pages(
    sampler: &mut Sampler<'_>,
    prompts: &[Prompt],
    pages: usize,
) -> (Vec<Vec<Sample>>, Counts) {
    sampler.engine.reserve(pages).unwrap();
    let (encoded, before) = (encoded(prompts), sampler.engine.counts());
    let mut open = OpenShards::default();
    open.add(&encoded, sampler.sampling.num_samples, |prompt| sampler.request(prompt)).unwrap();
    while !sampler.engine.is_idle() {
        for event in sampler.engine.step().unwrap() {
            if let RequestEvent::Finished { request, sample } = event {
                open.put(request, sample).unwrap();
            }
        }
        sampler.engine.schedule().check_invariants();
    }
    assert_eq!(sampler.engine.schedule().free_pages(), pages);
    let answers = open.take_whole().unwrap().1;
    let rows = answers.into_iter().map(|answer| answer.row(&FakeText, &sampler.stop).unwrap()).collect();
    let after = sampler.engine.counts();
    let counts = Counts {
        tokens: after.tokens - before.tokens,
        finished: after.finished - before.finished,
        preemptions: after.preemptions - before.preemptions,
        recomputed: after.recomputed - before.recomputed,
    };
    (samples(rows), counts)
}

/// Pages for these prompts where there is memory for so many.
fn pages_for(sampler: &Sampler<'_>, prompts: &[Prompt]) -> usize {
    let Sampling { max_new_tokens, num_samples, .. } = sampler.sampling;
    sampler.engine.pages_for(prompts.iter().map(|prompt| ids(prompt).len()), max_new_tokens, num_samples)
}

#[test]
fn a_preempted_candidate_is_the_same() {
    const CASES: usize = 400;
    let mut random = Random::new(11);
    let mut below = |end: usize| random.below(end);
    let (mut preempted, mut recomputed) = (0, 0);
    for case in 0..CASES {
        let settings = SampleSettings {
            num_samples: 1 + below(5),
            max_new_tokens: 1 + below(60),
            max_batch_rows: Some(1 + below(12)),
            token_budget: Some(1 + below(70)),
            // Text that grows over a preemption must go on where it was.
            stop: if below(2) == 0 {
                vec![Stop::Text("#$".to_owned()), Stop::Text("!".to_owned())]
            } else {
                vec![]
            },
            seed: case as u64,
            ..settings()
        };
        let prompts: Vec<Prompt> = (0..1 + below(10))
            .map(|i| prompt(i, if below(3) == 0 { 16 * (1 + below(4)) } else { 1 + below(60) }))
            .collect();
        // Without memory, the pages of the longest candidate are left.
        let none =
            SampleSettings { capacity: Some(Capacity { cache_bytes: 0, ..Capacity::CPU }), ..settings };
        let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &none);
        let (settings, least) = (none, pages_for(&sampler, &prompts));
        let tight = least + below(2 * least);
        // No row can need more than the whole context.
        let ample =
            prompts.len() * settings.num_samples * CONTEXT.div_ceil(selfplay_model::PAGE_TOKENS) + 100;
        let (want, counts) = sample_with_pages(&mut sampler, &prompts, ample);
        assert_eq!((counts.preemptions, counts.recomputed), (0, 0));
        let (got, counts) = sample_with_pages(&mut sampler, &prompts, tight);
        assert_eq!(got, want, "case {case}: {settings:?}");
        preempted += usize::from(counts.preemptions > 0);
        recomputed += counts.recomputed;
    }
    println!("{preempted} of {CASES} workloads preempted somebody; {recomputed} tokens computed again");
    assert!(preempted > CASES / 4 && recomputed > 1000, "{preempted} of {CASES}, {recomputed} tokens");
}

#[test]
fn progress_counts_preemptions() {
    let prompts: Vec<Prompt> = (0..6).map(|n| prompt(n, 20)).collect();
    let settings = SampleSettings { cache_mib: Some(4), ..settings() };
    let mut last = SamplingProgress::default();
    let mut note = |progress| {
        last = progress;
        ControlFlow::Continue(())
    };
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings);
    let got = samples(sampler.generate(&encoded(&prompts), &mut note).unwrap());
    assert_eq!(got, sample(&self::settings(), &prompts));
    assert!(last.preemptions > 0 && last.recomputed > 0, "{last:?}");
}

#[test]
fn thousands_of_prompts_wait_for_512_rows() {
    let settings = SampleSettings {
        num_samples: 5,
        max_new_tokens: 24,
        max_batch_rows: Some(512),
        token_budget: Some(2048),
        cache_mib: Some(1300),
        ..settings()
    };
    let prompts: Vec<Prompt> = (0..4000).map(|n| prompt(n, 1 + n % 50)).collect();
    let (mut last, mut steps) = (SamplingProgress::default(), 0);
    let mut note = |progress: SamplingProgress| {
        last = progress;
        steps += 1;
        ControlFlow::Continue(())
    };
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings);
    let got = samples(sampler.generate(&encoded(&prompts), &mut note).unwrap());
    // Every step draws one token a row; a candidate's first comes with its prompt.
    let rows = (last.tokens - last.finished) as f64 / f64::from(steps);
    println!("{steps} steps of {rows:.0} rows; {last:?}");
    assert_eq!(last.finished, 20_000);
    assert!(rows > 460.0, "{rows}");
    for place in [0, 1234, 3999] {
        let want: Vec<Sample> = (0..5).map(|sample| by_hand(&settings, &prompts[place], sample)).collect();
        assert_eq!(got[place], want);
    }
}

/// Shards as they are handed over, and the number of steps.
fn by_shard(
    model: FakeModel,
    settings: &SampleSettings,
    shards: &[&[EncodedPrompt<'_>]],
) -> (Vec<Vec<Vec<Sample>>>, usize) {
    let (mut given, mut steps) = (vec![None; shards.len()], 0);
    let mut count = |_| {
        steps += 1;
        ControlFlow::Continue(())
    };
    let mut take = |shard: usize, rows| {
        assert!(given[shard].replace(samples(rows)).is_none(), "shard {shard} came twice");
        Ok::<_, SampleError>(ControlFlow::Continue(()))
    };
    let flow = sampler(model, settings).generate_shards(shards, &mut count, &mut take).unwrap();
    assert!(flow.is_continue());
    (given.into_iter().map(|samples| samples.expect("every shard comes")).collect(), steps)
}

#[test]
fn across_borders_there_are_the_same_candidates_in_fewer_steps() {
    let prompts: Vec<Prompt> = (0..40).map(|n| prompt(n, 1 + n * 2)).collect();
    let settings = SampleSettings { max_batch_rows: Some(12), ..settings() };
    let encoded = encoded(&prompts);
    let mut shards: Vec<&[EncodedPrompt<'_>]> = encoded.chunks(6).collect();
    shards.insert(3, &[]);
    let apart = FakeModel::new(VOCAB, CONTEXT).with_batch_invariance(false);
    let (one_by_one, steps_apart) = by_shard(apart, &settings, &shards);
    let (together, steps) = by_shard(FakeModel::new(VOCAB, CONTEXT), &settings, &shards);
    assert_eq!(together, one_by_one);
    assert_eq!(together.concat(), sample(&settings, &prompts));
    assert!(steps * 10 < steps_apart * 9, "{steps} of {steps_apart} steps");
}

#[test]
fn a_shard_of_its_own_runs_as_if_it_were_alone() {
    let prompts: Vec<Prompt> = (0..9).map(|n| prompt(n, 30)).collect();
    let settings = SampleSettings { max_batch_rows: Some(5), cache_mib: Some(9), ..settings() };
    let apart = || FakeModel::new(VOCAB, CONTEXT).with_batch_invariance(false);
    let encoded = encoded(&prompts);
    let shards: Vec<&[EncodedPrompt<'_>]> = encoded.chunks(3).collect();
    let (_, all_steps) = by_shard(apart(), &settings, &shards);
    let alone: usize = shards.iter().map(|shard| by_shard(apart(), &settings, &[shard]).1).sum();
    assert_eq!(all_steps, alone);
}

#[test]
fn a_break_ends_the_call_and_drops_what_is_in_work() {
    let prompts: Vec<Prompt> = (0..20).map(|n| prompt(n, 10)).collect();
    let encoded = encoded(&prompts);
    let shards: Vec<&[EncodedPrompt<'_>]> = encoded.chunks(4).collect();
    let settings = SampleSettings { max_batch_rows: Some(8), ..settings() };
    for batch_invariant in [true, false] {
        let mut sampler =
            sampler(FakeModel::new(VOCAB, CONTEXT).with_batch_invariance(batch_invariant), &settings);
        let (mut given, mut finished) = (Vec::new(), 0);
        let flow = sampler
            .generate_shards(
                &shards,
                &mut |progress| {
                    finished = progress.finished;
                    ControlFlow::Continue(())
                },
                &mut |shard, rows| {
                    given.push((shard, rows));
                    let is_second = given.len() == 2;
                    Ok::<_, SampleError>(if is_second {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    })
                },
            )
            .unwrap();
        assert!(flow.is_break());
        assert_eq!(given.len(), 2);
        assert!(finished < 60, "{finished}");
        // What was handed over is whole, and the sampler goes on as if nothing had been.
        for (shard, rows) in given {
            assert_eq!(rows, sampler.generate(shards[shard], &mut no_progress).unwrap());
        }
    }
}

#[test]
fn an_error_of_the_callers_comes_back_to_it() {
    let prompts = [prompt(0, 5)];
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let failed = sampler.generate_shards(&[&encoded(&prompts)], &mut no_progress, &mut |_, _| {
        Err(SampleError::internal("full"))
    });
    assert!(failed.unwrap_err().to_string().ends_with("full"));
}

#[test]
fn a_sampler_works_with_the_capacity_of_before() {
    let earlier = Capacity { rows: 2, token_budget: 9, cache_bytes: 7 << 20 };
    let settings = SampleSettings { capacity: Some(earlier), ..settings() };
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings);
    assert_eq!(sampler.capacity(), earlier);
    let mut most = 0;
    let mut note = |progress: SamplingProgress| {
        most = most.max(progress.running);
        ControlFlow::Continue(())
    };
    sampler.generate(&encoded(&[prompt(0, 5)]), &mut note).unwrap();
    assert_eq!(most, 2);
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
        let together = SampleSettings {
            max_batch_rows: Some(max_batch_rows),
            token_budget: Some(token_budget),
            cache_mib: Some(cache_mib),
            ..alone.clone()
        };
        let mut prompts: Vec<Prompt> = lengths.iter().enumerate().map(|(i, &n)| prompt(i, n)).collect();
        let turn = order.index(prompts.len());
        prompts.rotate_left(turn);
        let got = sample(&together, &prompts);
        for (prompt, samples) in prompts.iter().zip(&got) {
            let want: Vec<Sample> = (0..num_samples).map(|sample| by_hand(&alone, prompt, sample)).collect();
            prop_assert_eq!(samples, &want);
        }
    }
}
