//! Shards in one call: across their borders, one by one, and calls that end early.

use super::*;

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
