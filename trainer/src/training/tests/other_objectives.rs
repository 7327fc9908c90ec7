//! Instructions and preference models through the same loop.

use super::*;

#[test]
fn sft_learns_a_constant_reply_and_resumes() {
    let examples = || -> Vec<SftExample> {
        (0..12u32)
            .map(|i| SftExample {
                name: format!("instruction {i}"),
                ids: [3 + i, 4 + i % 3, 20, 21, 22, 2].to_vec(),
                spans: std::iter::once(2..6).collect(),
            })
            .collect()
    };
    let settings = TrainSettings {
        batch_size: 6,
        epochs: 15,
        micro_batch_tokens: 20.into(),
        learning_rate: 1e-2,
        ..settings()
    };
    let objective = || SftObjective::new(examples(), &settings);
    let whole = tempfile::tempdir().unwrap();
    let mut straight = decoder(10);
    let got = summary(run(whole.path(), usize::MAX, |run| train(&mut straight, objective(), run)).unwrap());
    // ln 32 = 3.47 at the start.
    assert!(got.loss_first.unwrap() > 3.0 && got.loss_last.unwrap() < 0.5, "{got:?}");
    let parts = tempfile::tempdir().unwrap();
    run(parts.path(), 7, |run| train(&mut decoder(10), objective(), run)).unwrap();
    let mut resumed = decoder(10);
    run(parts.path(), usize::MAX, |run| train(&mut resumed, objective(), run)).unwrap();
    assert!(weights(&straight) == weights(&resumed));
    let lines: Vec<StepMetrics> = read_lines(&whole.path().join("metrics.jsonl")).unwrap();
    assert_eq!((lines[0].reward_chosen, lines[0].logp_rejected), (None, None));
    // Mean over examples of four tokens each.
    assert!((lines[0].logp_chosen.unwrap() + 4.0 * lines[0].loss).abs() < 1e-6);
}

#[test]
fn preference_models_learn_which_token_is_better() {
    let comparisons: Vec<TokenComparison> = (0..40u32)
        .map(|i| TokenComparison {
            name: format!("comparison {i}"),
            chosen: vec![3 + i % 8, 4, 25, 11 + i % 5, 2],
            rejected: vec![3 + i % 8, 4, 26, 11 + i % 7, 2],
            prompt_position: 1,
            ..TokenComparison::default()
        })
        .collect();
    for kind in [PreferenceHeadKind::Gpm, PreferenceHeadKind::BradleyTerry] {
        let settings = PreferenceTrainSettings {
            train: TrainSettings {
                batch_size: 12,
                epochs: 8,
                micro_batch_tokens: 40.into(),
                learning_rate: 3e-3,
                ..settings()
            },
            preference: PreferenceSettings { kind, holdout: 0.25, tau: Some(1.0), ..Default::default() },
        };
        let folder = tempfile::tempdir().unwrap();
        let mut straight = decoder(11);
        let train = |decoder: &mut Decoder, folder: &Path, limit: usize| {
            let objective = PreferenceObjective::new(comparisons.clone(), &settings);
            run(folder, limit, |run| crate::train(decoder, objective, run)).unwrap()
        };
        let got = summary(train(&mut straight, folder.path(), usize::MAX));
        assert_eq!((got.examples, got.accuracy.len(), got.steps), (30, 8, 24));
        let last = got.accuracy[7];
        assert_eq!((last.epoch, last.step, last.comparisons), (8, 24, 10));
        assert_eq!(last.accuracy, 1.0, "{kind:?}");
        assert!(got.loss_last < got.loss_first);
        let lines: Vec<StepMetrics> = read_lines(&folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(lines[0].reward_chosen.is_some(), kind == PreferenceHeadKind::BradleyTerry);

        let parts = tempfile::tempdir().unwrap();
        train(&mut decoder(11), parts.path(), 4);
        let mut resumed = decoder(11);
        assert_eq!(summary(train(&mut resumed, parts.path(), usize::MAX)), got);
        assert!(weights(&straight) == weights(&resumed));
    }
}

#[test]
fn a_preference_models_gradient_agrees_with_a_directional_difference() {
    // One step at rate 0 writes the gradient; the loss is then taken at two points along it.
    let comparisons: Vec<TokenComparison> = (0..5u32)
        .map(|i| TokenComparison {
            name: format!("comparison {i}"),
            chosen: vec![3 + i, 4, 25, 11 + i, 2],
            rejected: vec![3 + i, 4, 9, 2],
            prompt_position: 1,
            ..TokenComparison::default()
        })
        .collect();
    let settings = PreferenceTrainSettings {
        train: TrainSettings {
            batch_size: 5,
            micro_batch_tokens: 16.into(),
            warmup_ratio: 1.0,
            epochs: 1,
            save_initial_gradients: true,
            ..settings()
        },
        preference: PreferenceSettings { holdout: 0.0, tau: Some(1.0), ..Default::default() },
    };
    let loss_at = |along: f32, gradient: Option<&Path>, out: &Path| {
        let mut decoder = decoder(12);
        PreferenceHeads::add(&mut decoder, 6, true, 42).unwrap();
        // The heads start at 1/17 of a unit: with larger ones the score bends more and tests more.
        for (_, parameter) in decoder.parameters().iter() {
            if parameter.name.ends_with("_head.weight") && !parameter.name.starts_with("lm") {
                shift(&parameter.value, |x| x * 8.0);
            }
        }
        if let Some(path) = gradient {
            let bytes = std::fs::read(path).unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (_, parameter) in decoder.parameters().iter() {
                let direction = file.tensor(&parameter.name).unwrap();
                let mut values =
                    direction.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
                shift(&parameter.value, |x| x + along * values.next().unwrap());
            }
        }
        let outcome = run(out, usize::MAX, |run| {
            train(&mut decoder, PreferenceObjective::new(comparisons.clone(), &settings), run)
        });
        summary(outcome.unwrap()).loss_first.unwrap()
    };
    let start = tempfile::tempdir().unwrap();
    loss_at(0.0, None, start.path());
    let lines: Vec<StepMetrics> = read_lines(&start.path().join("metrics.jsonl")).unwrap();
    let squared = lines[0].grad_norm.powi(2);
    let path = start.path().join("gradients_step_1.safetensors");
    let h = (2e-3 / squared.sqrt()) as f32;
    let (up, down) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let difference =
        (loss_at(h, Some(&path), up.path()) - loss_at(-h, Some(&path), down.path())) / (2.0 * f64::from(h));
    assert!((difference - squared).abs() < 5e-3 * squared, "{difference} against {squared}");
}

fn shift(tensor: &candle_core::Tensor, mut change: impl FnMut(f32) -> f32) {
    selfplay_model::cpu::storage::with_slice_mut::<f32, _>(tensor, |values| {
        values.iter_mut().for_each(|x| *x = change(*x));
    })
    .unwrap();
}
