//! Preference losses: they fall, micro-batches change nothing, resume is exact; what is refused by name.

use super::*;

#[test]
fn every_loss_trains_and_its_loss_falls() {
    for loss in losses_of_pairs() {
        let folder = tempfile::tempdir().unwrap();
        // SimPO starts far from its margin with random weights: the others' β would be too weak to see.
        let settings = TrainSettings { loss, batch_size: 10, epochs: 12, ..settings() };
        let mut decoder = decoder(1);
        let got = summary(train_ten(&mut decoder, &settings, folder.path(), usize::MAX));
        assert_eq!((got.steps, got.examples, got.truncated), (12, 10, 0));
        assert!(got.loss_last < got.loss_first, "{loss}: {got:?}");
        assert_eq!(
            folder.path().join("reference").exists(),
            !matches!(loss, LossKind::Simpo | LossKind::Orpo)
        );
        let lines: Vec<StepMetrics> = read_lines(&folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(lines.iter().map(|l| l.step).collect::<Vec<_>>(), (1..=12).collect::<Vec<_>>());
        assert_eq!(lines[0].tokens, pairs(10).iter().map(TokenPair::tokens).sum::<usize>());
    }
}

#[test]
fn micro_batches_change_nothing_but_rounding() {
    let decoder = decoder(2);
    let mut pairs = pairs(9);
    for (i, pair) in pairs.iter_mut().enumerate() {
        pair.reference = Some(PairLogProbs { chosen: -9.0 - i as f64, rejected: -11.0 + i as f64 });
    }
    let all: Vec<&TokenPair> = pairs.iter().collect();
    for loss in losses_of_pairs() {
        for sft_weight in [0.0, 0.3] {
            let sft_weight = if loss == LossKind::Orpo { 0.0 } else { sft_weight };
            let loss = LossSettings::from(&TrainSettings { loss, sft_weight, ..settings() });
            let gradient = |micro_batch_tokens: usize, recompute: Recompute| {
                let mut grads = Gradients::zeros(decoder.parameters()).unwrap();
                let memory = &ActivationMemory::new(recompute);
                let (tokens, loss_tokens) = (micro_batch_tokens, LossTokens::Responses);
                let pass = MicroBatches { tokens, memory, loss_tokens };
                let report = pair_gradients(&decoder, &all, &loss, pass, &mut grads).unwrap();
                let values: Vec<f32> = grads
                    .iter()
                    .flat_map(|(_, g)| g.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                    .collect();
                (report, values)
            };
            let (whole, one) = gradient(10_000, Recompute::Never);
            let (parts, many) = gradient(20, Recompute::Always);
            assert!((whole.loss - parts.loss).abs() < 1e-5 * whole.loss.abs().max(1.0), "{loss:?}");
            let reward = |r: &BatchReport| r.reward_chosen.unwrap();
            assert!((reward(&whole) - reward(&parts)).abs() < 1e-5);
            let largest = one.iter().fold(0f32, |m, x| m.max(x.abs()));
            assert!(largest > 0.0);
            let apart = one.iter().zip(&many).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
            assert!(apart <= 1e-5 * largest, "{loss:?}: {apart} of {largest}");
        }
    }
}

#[test]
fn a_resumed_run_ends_bit_identical() {
    for optimizer in [OptimizerKind::RmsProp, OptimizerKind::AdamW] {
        let settings = TrainSettings { optimizer, warmup_ratio: 0.1, checkpoint_every: 5, ..settings() };
        let whole = tempfile::tempdir().unwrap();
        let mut straight = decoder(3);
        let want = summary(train_ten(&mut straight, &settings, whole.path(), usize::MAX));
        assert_eq!(want.steps, 12);

        // Stopped after 1, then 2, then 4 more steps, each time with the starting weights handed over again.
        let parts = tempfile::tempdir().unwrap();
        for (limit, step) in [(1, 1), (2, 3), (4, 7)] {
            let outcome = train_ten(&mut decoder(3), &settings, parts.path(), limit);
            assert_eq!(outcome, TrainOutcome::Interrupted { step });
            assert_eq!(checkpoint::latest(parts.path()).unwrap().unwrap().step, step);
        }
        let mut resumed = decoder(3);
        let got = summary(train_ten(&mut resumed, &settings, parts.path(), usize::MAX));
        assert!(weights(&straight) == weights(&resumed));
        assert_eq!(got, want);
        let lines = |folder: &Path| -> Vec<StepMetrics> {
            let mut lines: Vec<StepMetrics> = read_lines(&folder.join("metrics.jsonl")).unwrap();
            lines.iter_mut().for_each(|line| line.seconds = 0.0);
            lines
        };
        assert_eq!(lines(whole.path()), lines(parts.path()));
        // Only the newest stays; a finished run called again makes no step.
        assert_eq!(checkpoint::checkpoints(parts.path()).unwrap().len(), 1);
        let again = summary(train_ten(&mut decoder(3), &settings, parts.path(), 0));
        assert_eq!(again.steps, 12);
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    train_ten(&mut decoder(4), &settings(), folder.path(), 2);
    let other = TrainSettings { beta: 0.4, ..settings() };
    let error =
        run(folder.path(), 1, |run| train_pairs(&mut decoder(4), pairs(10), &other, run)).unwrap_err();
    assert!(error.kind() == Kind::Input && error.to_string().contains("settings"), "{error}");
    let error =
        run(folder.path(), 1, |run| train_pairs(&mut decoder(4), pairs(9), &settings(), run)).unwrap_err();
    assert!(error.to_string().contains("data"), "{error}");
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_pair_and_leaves_the_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        TrainSettings { shuffle: false, checkpoint_every: 1, batch_size: 2, epochs: 1, ..settings() };
    let mut bad = pairs(6);
    bad.iter_mut().for_each(|p| p.reference = Some(PairLogProbs { chosen: -9.0, rejected: -9.0 }));
    // A reference so far away that the squared distance overflows.
    bad[3].reference = Some(PairLogProbs { chosen: -1e200, rejected: -9.0 });
    let settings = TrainSettings { loss: LossKind::Gpo, ..settings };
    let error =
        run(folder.path(), usize::MAX, |run| train_pairs(&mut decoder(5), bad, &settings, run)).unwrap_err();
    assert!(error.kind() != Kind::Input);
    let text = error.to_string();
    assert!(text.contains("step 2") && text.contains("pair 3"), "{text}");
    assert_eq!(checkpoint::latest(folder.path()).unwrap().unwrap().step, 1);
}

#[test]
fn a_gradient_that_is_not_finite_names_its_pair() {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        TrainSettings { shuffle: false, batch_size: 3, epochs: 1, loss: LossKind::Gpo, ..settings() };
    let mut bad = pairs(3);
    bad.iter_mut().for_each(|p| p.reference = Some(PairLogProbs { chosen: -9.0, rejected: -9.0 }));
    // The loss is finite in f64, its coefficient is not in f32.
    bad[1].reference = Some(PairLogProbs { chosen: -1e60, rejected: -9.0 });
    let error =
        run(folder.path(), usize::MAX, |run| train_pairs(&mut decoder(5), bad, &settings, run)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("gradient norm") && text.contains("step 1") && text.contains("pair 1"), "{text}");
}

#[test]
fn bad_pairs_and_settings_are_input_errors() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |pairs: Vec<TokenPair>, settings: TrainSettings| {
        let error =
            run(folder.path(), 1, |run| train_pairs(&mut decoder(6), pairs, &settings, run)).unwrap_err();
        assert!(error.kind() == Kind::Input, "{error}");
        error.to_string()
    };
    let mut outside = pairs(2);
    outside[1].rejected[0] = VOCAB;
    assert!(fails(outside, settings()).contains("pair 1: token id 32"));
    let mut empty = pairs(2);
    empty[0].prompt.clear();
    assert!(fails(empty, settings()).contains("`prompt`"));
    assert!(fails(Vec::new(), settings()).contains("nothing to train on"));
    assert!(fails(pairs(1), TrainSettings { batch_size: 0, ..settings() }).contains("batch_size"));
    let mut bare = pairs(1);
    bare[0].target = PreferenceTarget::default();
    assert!(fails(bare, TrainSettings { loss: LossKind::Sppo, ..settings() }).contains("chosen_probs_win"));
}

#[test]
fn truncation_is_counted_and_initial_gradients_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let settings = TrainSettings {
        max_length: 8,
        max_prompt_length: 4,
        save_initial_gradients: true,
        max_steps: Some(1),
        ..settings()
    };
    let want = pairs(10).iter().filter(|p| p.prompt.len() + p.chosen.len().max(p.rejected.len()) > 8).count();
    let mut decoder = decoder(7);
    let got = summary(train_ten(&mut decoder, &settings, folder.path(), usize::MAX));
    assert!(want > 0);
    assert_eq!((got.truncated, got.steps), (want, 1));
    let bytes = std::fs::read(folder.path().join("gradients_step_1.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), decoder.parameters().len());
    let norm: f64 = file
        .tensors()
        .iter()
        .flat_map(|(_, t)| {
            t.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect::<Vec<_>>()
        })
        .map(|x| f64::from(x) * f64::from(x))
        .sum::<f64>()
        .sqrt();
    let lines: Vec<StepMetrics> = read_lines(&folder.path().join("metrics.jsonl")).unwrap();
    assert!((norm - lines[0].grad_norm).abs() < 1e-6 * norm);
}

#[test]
fn references_are_those_of_the_starting_weights_and_log_probs_agree() {
    let decoder = decoder(8);
    let folder = tempfile::tempdir().unwrap();
    let mut all = pairs(70); // more than one shard
    let under = |policy: &str, decoder: &Decoder, pairs: &[TokenPair], stop: &dyn Fn() -> bool| {
        let data = PairData::from(pairs.to_vec());
        let members: Vec<usize> = (0..pairs.len()).collect();
        let (folder, collective) = (folder.path(), &Alone::default());
        let loss_tokens = LossTokens::Responses;
        let pass = ReferencePass { policy, micro_batch_tokens: 64, loss_tokens, folder, stop, collective };
        pass.log_probs(decoder, PairMembers { data: &data, members: &members }).unwrap()
    };
    assert_eq!(under("", &decoder, &all, &|| true), None);
    let values = under("", &decoder, &all, &|| false).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    for (pair, value) in all.iter_mut().zip(&values) {
        pair.reference = Some(*value);
    }
    let rows: Vec<PromptResponse> = all
        .iter()
        .map(|p| PromptResponse {
            name: p.name.clone(),
            prompt: p.prompt.clone(),
            response: p.chosen.clone(),
        })
        .collect();
    for (pair, row) in all.iter().zip(log_probs(&decoder, &rows, 50).unwrap()) {
        assert_eq!(row.tokens.len(), pair.chosen.len());
        assert!((pair.reference.unwrap().chosen - row.sum).abs() < 1e-4, "{}", pair.name);
    }
    // A second time they are read, whatever the weights are then; those of another policy are others.
    let other = super::decoder(9);
    assert_eq!(under("", &other, &pairs(70), &|| false), Some(values.clone()));
    assert_ne!(under("another", &other, &pairs(70), &|| false), Some(values));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 4);
}
