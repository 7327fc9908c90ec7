//! A call's candidates are their definition; what is refused; progress and interruption.

use proptest::prelude::*;

use super::*;

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
fn each_row_is_given_as_it_ends_and_has_the_bits_of_all_together() {
    let prompts: Vec<Prompt> = (0..5).map(|n| prompt(n, 10 + n)).collect();
    let mut sampler = sampler(FakeModel::new(VOCAB, CONTEXT), &settings());
    let wanted = sampler.generate(&encoded(&prompts), &mut no_progress).unwrap();
    let mut found: Vec<Option<Candidates>> = vec![None; 5];
    let mut before_the_end = false;
    let mut progress = SamplingProgress::default();
    let flow = sampler.generate_each(
        &encoded(&prompts),
        &mut |now| {
            progress = now;
            ControlFlow::Continue(())
        },
        &mut |place, row| {
            before_the_end |= found.iter().flatten().count() < 4;
            assert!(found[place].replace(row).is_none(), "given once");
            ControlFlow::Continue(())
        },
    );
    assert!(flow.unwrap().is_continue() && before_the_end);
    assert_eq!(progress.finished, 15);
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), wanted);
    let mut given = 0;
    let flow = sampler.generate_each(&encoded(&prompts), &mut no_progress, &mut |_, _| {
        given += 1;
        if given == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(flow.unwrap().is_break() && given == 2);
    assert_eq!(sampler.generate(&encoded(&prompts), &mut no_progress).unwrap(), wanted);
}

#[test]
fn no_prompts_no_results() {
    assert_eq!(sample(&settings(), &[]), Vec::<Vec<Sample>>::new());
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
