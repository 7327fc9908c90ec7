//! Groups: the gradient against a plain loop over single responses, passes over the data, resume in the middle, what is refused.

use super::*;
use crate::batch::pack_responses;
use crate::token_store::TokenStore;

/// Groups of three uneven responses, one of which is the best; log-probs of the sampling policy where `sampled`.
pub(super) fn groups(count: u32, sampled: bool) -> Vec<TokenGroup> {
    let number = |i: u32, place: u32| 3 + (i * 7919 + place * 104_729 + (i * place) % 13) % (VOCAB - 3);
    let response = |group: u32, place: u32, advantage: f64| {
        let ids: Vec<u32> =
            (0..2 + (group + place) % 3).map(|token| number(3 * group + place, token)).collect();
        let old = ids.iter().enumerate().map(|(token, _)| -3.0 - 0.1 * ((group as usize + token) % 5) as f32);
        GroupResponse { old: sampled.then(|| old.collect()), ids, advantage, reference: None }
    };
    (0..count)
        .map(|group| TokenGroup {
            name: format!("completion {}", 3 * group),
            prompt: (0..3 + group % 2).map(|token| number(100 + group, token)).collect(),
            responses: vec![response(group, 0, 1.3), response(group, 1, -0.4), response(group, 2, -0.9)],
        })
        .collect()
}

pub(super) fn group_settings() -> TrainSettings {
    TrainSettings { loss: LossKind::Grpo, batch_size: 2, learning_rate: 5e-3, ..settings() }
}

fn train_groups(
    decoder: &mut Decoder,
    objective: GroupObjective,
    folder: &Path,
    limit: usize,
) -> TrainOutcome {
    run(folder, limit, |run| train(decoder, objective, run)).unwrap()
}

fn flat(decoder: &Decoder, grads: &Gradients) -> Vec<f32> {
    let value = |g: &candle_core::Tensor| g.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    decoder.parameters().iter().filter_map(|(id, _)| grads.get(id)).flat_map(value).collect()
}

#[test]
fn the_gradient_is_that_of_a_plain_loop_over_single_responses() {
    let decoder = decoder(11);
    let mut groups = groups(4, true);
    for (place, group) in groups.iter_mut().enumerate() {
        for response in &mut group.responses {
            response.reference = Some(
                response
                    .ids
                    .iter()
                    .enumerate()
                    .map(|(token, _)| -2.5 - 0.3 * ((place + token) % 3) as f32)
                    .collect(),
            );
        }
    }
    let settings =
        TrainSettings { clip: Some(0.1), clip_high: Some(0.4), kl_weight: Some(0.3), ..group_settings() };

    // Each response by itself, each term as the equation has it.
    let mut plain = Gradients::zeros(decoder.parameters()).unwrap();
    let (mut loss, mut clipped) = (0.0f64, 0);
    for group in &groups {
        for response in &group.responses {
            let packed = pack_responses([(&group.prompt[..], &response.ids[..])]);
            let memory = ActivationMemory::new(Recompute::Never);
            let tape =
                decoder.forward_train(&packed.batch, memory.plan(&decoder, &packed.batch).unwrap()).unwrap();
            let (rows, targets) = (&packed.targets.rows, &packed.targets.targets);
            let log_probs = decoder.token_log_probs(tape.hidden(), rows, targets).unwrap();
            let weight = 1.0 / (4 * 3 * response.ids.len()) as f64;
            let term = |token: usize, log_prob: f64| {
                let (old, reference) = (response.old.as_ref().unwrap(), response.reference.as_ref().unwrap());
                let ratio = (log_prob - f64::from(old[token])).exp();
                let a = response.advantage;
                let gain = (ratio * a).min(ratio.clamp(0.9, 1.4) * a);
                let gap = f64::from(reference[token]) - log_prob;
                -gain + 0.3 * (gap.exp() - gap - 1.0)
            };
            let slopes: Vec<f32> = log_probs
                .iter()
                .enumerate()
                .map(|(token, &log_prob)| {
                    let x = f64::from(log_prob);
                    loss += weight * term(token, x);
                    let ratio = (x - f64::from(response.old.as_ref().unwrap()[token])).exp();
                    clipped += usize::from(if response.advantage > 0.0 { ratio > 1.4 } else { ratio < 0.9 });
                    (weight * (term(token, x + 1e-6) - term(token, x - 1e-6)) / 2e-6) as f32
                })
                .collect();
            let d_hidden =
                decoder.token_log_probs_backward(tape.hidden(), rows, targets, &slopes, &mut plain).unwrap();
            decoder.backward(tape, &d_hidden, &mut plain).unwrap();
        }
    }
    assert!(clipped > 0, "no ratio is past its bounds");

    let want = flat(&decoder, &plain);
    let largest = want.iter().fold(0f32, |most, x| most.max(x.abs()));
    assert!(largest > 0.0);
    for micro_batch_tokens in [10_000, 9] {
        let settings = TrainSettings { micro_batch_tokens: micro_batch_tokens.into(), ..settings.clone() };
        let mut objective = GroupObjective::new(groups.clone(), &settings);
        let memory = ActivationMemory::new(Recompute::Always);
        // Two parts, as two ranks would have them.
        let mut sum = Gradients::zeros(decoder.parameters()).unwrap();
        let mut report = BatchReport::default();
        for (is_first, places) in [(true, &[0usize, 3][..]), (false, &[1, 2][..])] {
            let part = Part {
                decoder: &decoder,
                batch: &[0, 1, 2, 3],
                places,
                is_first,
                memory: &memory,
                log_probs: None,
            };
            report = report.plus(objective.accumulate(part, &mut sum).unwrap());
        }
        assert!((report.loss - loss).abs() < 1e-5, "{} {loss}", report.loss);
        assert!(report.kl.unwrap() > 0.0 && report.clipped.unwrap() > 0.0);
        let got = flat(&decoder, &sum);
        let apart = got.iter().zip(&want).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(apart <= 2e-5 * largest, "{micro_batch_tokens}: {apart} of {largest}");
    }
}

#[test]
fn several_passes_over_the_groups_move_towards_the_better_responses() {
    let folder = tempfile::tempdir().unwrap();
    let settings = TrainSettings { epochs: 6, kl_weight: Some(0.0), batch_size: 6, ..group_settings() };
    let mut trained = decoder(12);
    let outcome = train_groups(
        &mut trained,
        GroupObjective::new(groups(6, false), &settings),
        folder.path(),
        usize::MAX,
    );
    let got = summary(outcome);
    assert_eq!((got.steps, got.examples, got.truncated, got.skipped), (6, 6, 0, 0));
    let lines: Vec<StepMetrics> = read_lines(&folder.path().join("metrics.jsonl")).unwrap();
    // Log-probs that no response brings are those of the starting weights: every ratio is 1, and the loss is −mean A.
    assert!(lines[0].loss.abs() < 1e-5 && lines[0].clipped == Some(0.0), "{:?}", lines[0]);
    assert!(lines[0].kl.unwrap().abs() < 1e-6 && lines[5].kl.unwrap() > lines[1].kl.unwrap());
    assert!(lines[5].loss < lines[1].loss && lines[1].loss < lines[0].loss, "{lines:?}");
    let chance = |decoder: &Decoder, response: usize| -> f64 {
        let rows: Vec<PromptResponse> = groups(6, false)
            .into_iter()
            .map(|group| PromptResponse {
                name: group.name.clone(),
                prompt: group.prompt.clone(),
                response: group.responses[response].ids.clone(),
            })
            .collect();
        log_probs(decoder, &rows, 1000).unwrap().iter().map(|row| row.sum).sum()
    };
    let start = decoder(12);
    assert!(chance(&trained, 0) > chance(&start, 0) && chance(&trained, 2) < chance(&start, 2));
}

#[test]
fn a_run_over_groups_resumes_bit_identical_and_reads_another_policy_once() {
    let settings = TrainSettings { epochs: 3, checkpoint_every: 2, ..group_settings() };
    let objective = || {
        GroupObjective::new(groups(5, false), &settings)
            .with_reference(AnchorPolicy::Other("the first".into()))
            .with_kl_factor(2.0)
    };
    let loads = Cell::new(0);
    let whole = |folder: &Path, limit: usize| {
        let mut objective = objective();
        let mut policy = decoder(13);
        let outcome = run(folder, limit, |run| {
            let load = &mut |name: &str| {
                assert_eq!(name, "the first");
                loads.set(loads.get() + 1);
                Ok::<Decoder, TrainError>(decoder(14))
            };
            assert!(objective.has_other_anchors());
            assert_eq!(objective.load_anchors(run, load).unwrap(), Preparation::Complete);
            train(&mut policy, objective, run).unwrap()
        });
        (weights(&policy), outcome)
    };
    let straight = tempfile::tempdir().unwrap();
    let (want, outcome) = whole(straight.path(), usize::MAX);
    assert_eq!((summary(outcome).steps, loads.get()), (9, 1));
    let parts = tempfile::tempdir().unwrap();
    for (limit, step) in [(1, 1), (3, 4)] {
        assert_eq!(whole(parts.path(), limit).1, TrainOutcome::Interrupted { step });
    }
    let (got, _) = whole(parts.path(), usize::MAX);
    assert!(got == want && loads.get() == 2, "{} loads", loads.get());

    // Without the other policy's log-probs nothing is guessed.
    let folder = tempfile::tempdir().unwrap();
    let error = run(folder.path(), 1, |run| train(&mut decoder(13), objective(), run)).unwrap_err();
    assert!(error.to_string().contains("the first"), "{error}");
}

#[test]
fn groups_in_a_file_train_the_same_weights() {
    let settings = TrainSettings { epochs: 2, max_length: 6, ..group_settings() };
    let train_over = |data: GroupData| {
        let folder = tempfile::tempdir().unwrap();
        let mut decoder = decoder(18);
        let outcome =
            train_groups(&mut decoder, GroupObjective::new(data, &settings), folder.path(), usize::MAX);
        (weights(&decoder), summary(outcome))
    };
    for sampled in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let mut filed = GroupData::over(TokenStore::bounded(folder.path(), 12));
        groups(5, sampled).iter().for_each(|group| filed.push(group).unwrap());
        assert!(train_over(filed) == train_over(groups(5, sampled).into()), "sampled {sampled}");
    }
}

#[test]
fn prompts_are_not_cut_and_groups_of_one_are_refused() {
    let settings = TrainSettings { max_length: 5, max_prompt_length: 2, epochs: 1, ..group_settings() };
    let mut some = groups(3, true);
    some[1].prompt = vec![3; 5];
    let folder = tempfile::tempdir().unwrap();
    let outcome =
        train_groups(&mut decoder(15), GroupObjective::new(some, &settings), folder.path(), usize::MAX);
    let got = summary(outcome);
    assert_eq!((got.examples, got.skipped), (2, 1));
    assert!(got.truncated > 0);

    let refused = |groups: Vec<TokenGroup>| {
        let folder = tempfile::tempdir().unwrap();
        let objective = GroupObjective::new(groups, &settings);
        let error = run(folder.path(), 1, |run| train(&mut decoder(15), objective, run)).unwrap_err();
        assert!(error.kind() == Kind::Input, "{error}");
        error.to_string()
    };
    let mut alone = groups(2, true);
    alone[1].responses.truncate(1);
    assert!(refused(alone).contains("two responses or more"));
    let mut long = groups(1, true);
    long[0].prompt = vec![3; 9];
    assert!(refused(long).contains("max_length"));
}

#[test]
fn unpaired_responses_train_and_resume_bit_identical() {
    let settings = TrainSettings {
        loss: LossKind::Kto,
        epochs: 6,
        batch_size: 4,
        micro_batch_tokens: 30.into(),
        checkpoint_every: 3,
        undesirable_weight: Some(1.5),
        ..settings()
    };
    let examples = || {
        let mut examples = pairs(10);
        for (place, example) in examples.iter_mut().enumerate() {
            example.target =
                PreferenceTarget { desirable: Some(place % 3 != 0), ..PreferenceTarget::default() };
        }
        examples
    };
    let train_all = |decoder: &mut Decoder, folder: &Path, limit: usize| {
        run(folder, limit, |run| train_pairs(decoder, examples(), &settings, run)).unwrap()
    };
    let whole = tempfile::tempdir().unwrap();
    let mut straight = decoder(16);
    let want = summary(train_all(&mut straight, whole.path(), usize::MAX));
    assert!(want.loss_last < want.loss_first, "{want:?}");
    assert_eq!((want.steps, want.identical), (18, 0));
    let parts = tempfile::tempdir().unwrap();
    assert_eq!(train_all(&mut decoder(16), parts.path(), 7), TrainOutcome::Interrupted { step: 7 });
    let mut resumed = decoder(16);
    assert_eq!(summary(train_all(&mut resumed, parts.path(), usize::MAX)), want);
    assert!(weights(&straight) == weights(&resumed));
}

#[test]
fn margins_weigh_pairs() {
    let with = |pair_weight, scores: [f64; 4]| {
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings { pair_weight, epochs: 1, batch_size: 4, ..settings() };
        let mut some = pairs(4);
        some.iter_mut().zip(scores).for_each(|(pair, score)| pair.target.score = Some(score));
        let mut decoder = decoder(17);
        let got =
            run(folder.path(), usize::MAX, |run| train_pairs(&mut decoder, some, &settings, run)).unwrap();
        (weights(&decoder), summary(got).loss_first)
    };
    let equal = with(PairWeight::Equal, [1.0; 4]);
    // The same margin everywhere is no weight; at Δ = 0 every pair's loss is ln 2, and weights have a mean of 1.
    assert!(with(PairWeight::Margin, [2.0; 4]) == equal);
    let other = with(PairWeight::Margin, [4.0, 0.0, 0.0, 0.0]);
    assert!(other.0 != equal.0);
    assert!((other.1.unwrap() - equal.1.unwrap()).abs() < 1e-6);
}
