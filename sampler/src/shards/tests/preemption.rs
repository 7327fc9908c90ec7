//! With too little memory for all that runs, the candidates are the same.

use selfplay_testing::Random;

use super::*;

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
        dropped: after.dropped - before.dropped,
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
