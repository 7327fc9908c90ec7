//! State and gradients on the host: the bits of a training that keeps them on the device.

use super::*;

fn settings_of(offload: Offload, optimizer: OptimizerKind) -> TrainSettings {
    // Several micro-batches to a step.
    TrainSettings { offload, optimizer, micro_batch_tokens: 24.into(), checkpoint_every: 2, ..settings() }
}

/// The lines of metrics, without times.
fn lines(folder: &Path) -> Vec<StepMetrics> {
    let mut lines: Vec<StepMetrics> = read_lines(&folder.join("metrics.jsonl")).unwrap();
    lines.iter_mut().for_each(|line| line.seconds = 0.0);
    lines
}

#[test]
fn whatever_is_the_host_s_every_bit_is_the_same_also_after_a_stop() {
    for (optimizer, max_grad_norm) in [
        (OptimizerKind::RmsProp, 1.0),
        (OptimizerKind::RmsProp, 0.0),
        (OptimizerKind::AdamW, 0.05),
        (OptimizerKind::AdamW8Bit, 0.0),
    ] {
        let folders: Vec<_> = (0..5).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut want = decoder(5);
        let settings_of =
            |offload, optimizer| TrainSettings { max_grad_norm, ..settings_of(offload, optimizer) };
        let none = settings_of(Offload::None, optimizer);
        let finished = summary(train_ten(&mut want, &none, folders[0].path(), usize::MAX));
        for (number, offload) in [Offload::Optimizer, Offload::OptimizerAndGradients].into_iter().enumerate()
        {
            let settings = settings_of(offload, optimizer);
            let (whole, stopped) = (folders[1 + 2 * number].path(), folders[2 + 2 * number].path());
            let mut got = decoder(5);
            assert_eq!(summary(train_ten(&mut got, &settings, whole, usize::MAX)), finished);
            assert!(weights(&got) == weights(&want), "{optimizer:?} {offload}");
            assert_eq!(lines(whole), lines(folders[0].path()), "{optimizer:?} {offload}");
            for limit in [1, 3] {
                train_ten(&mut decoder(5), &settings, stopped, limit);
            }
            let mut resumed = decoder(5);
            train_ten(&mut resumed, &settings, stopped, usize::MAX);
            assert!(weights(&resumed) == weights(&want), "{optimizer:?} {offload}: resumed");
        }
    }
}

#[test]
fn other_objectives_and_saved_gradients_too() {
    for loss in [LossKind::Sppo, LossKind::KtoPair, LossKind::Orpo] {
        let of = |offload| {
            let folder = tempfile::tempdir().unwrap();
            let settings = TrainSettings {
                loss,
                epochs: 1,
                save_initial_gradients: true,
                ..settings_of(offload, OptimizerKind::RmsProp)
            };
            let mut decoder = decoder(6);
            train_ten(&mut decoder, &settings, folder.path(), usize::MAX);
            let gradients = std::fs::read(folder.path().join("gradients_step_1.safetensors")).unwrap();
            (weights(&decoder), gradients)
        };
        assert!(of(Offload::None) == of(Offload::OptimizerAndGradients), "{loss}");
    }
}

#[test]
fn a_gradient_that_is_not_finite_names_its_example() {
    let mut pairs = pairs(4);
    pairs[2].target.score_win = Some(1e38);
    for offload in [Offload::None, Offload::OptimizerAndGradients] {
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings { loss: LossKind::Gpo, ..settings_of(offload, OptimizerKind::RmsProp) };
        let error =
            run(folder.path(), usize::MAX, |run| train_pairs(&mut decoder(1), pairs.clone(), &settings, run));
        let error = error.unwrap_err();
        assert!(error.to_string().contains(&pairs[2].name), "{offload}: {error}");
    }
}

/// In the second step, without clipping, when weights move before the norm is known: the same error, and the checkpoint of the
/// first step, as where all of it is the device's.
#[test]
fn a_gradient_that_is_not_finite_leaves_the_last_checkpoint() {
    let mut pairs = pairs(8);
    pairs[6].target.score_win = Some(1e38);
    let failed = |offload| {
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings {
            loss: LossKind::Gpo,
            max_grad_norm: 0.0,
            checkpoint_every: 1,
            shuffle: false,
            ..settings_of(offload, OptimizerKind::RmsProp)
        };
        let error =
            run(folder.path(), usize::MAX, |run| train_pairs(&mut decoder(1), pairs.clone(), &settings, run));
        let found = checkpoint::latest(folder.path()).unwrap().unwrap();
        let weights = std::fs::read(found.path.join("weights.safetensors")).unwrap();
        (error.unwrap_err().to_string(), found.step, weights)
    };
    let want = failed(Offload::None);
    assert!(want.0.contains(&pairs[6].name) && want.1 == 1, "{}", want.0);
    for offload in [Offload::Optimizer, Offload::OptimizerAndGradients] {
        assert!(failed(offload) == want, "{offload}");
    }
}

/// A preference model's heads are no segment of the decoder, and its accuracies are taken between steps.
#[test]
fn preference_models_are_moved_beside_their_passes_too() {
    for max_grad_norm in [1.0, 0.0] {
        let of = |offload| {
            let folder = tempfile::tempdir().unwrap();
            let train = TrainSettings {
                max_grad_norm,
                micro_batch_tokens: 40.into(),
                epochs: 2,
                ..settings_of(offload, OptimizerKind::AdamW)
            };
            let preference =
                PreferenceSettings { holdout: 0.25, tau: Some(1.0), ..PreferenceSettings::default() };
            let settings = PreferenceTrainSettings { train, preference };
            let comparisons = (0..20u32).map(|i| TokenComparison {
                name: format!("comparison {i}"),
                chosen: vec![3 + i % 8, 4, 25, 11 + i % 5, 2],
                rejected: vec![3 + i % 8, 4, 26, 11 + i % 7, 2],
                prompt_position: 1,
                ..TokenComparison::default()
            });
            let mut decoder = decoder(11);
            let objective = PreferenceObjective::new(comparisons.collect::<Vec<_>>(), &settings);
            let outcome = run(folder.path(), usize::MAX, |run| crate::train(&mut decoder, objective, run));
            (summary(outcome.unwrap()), weights(&decoder), lines(folder.path()))
        };
        let want = of(Offload::None);
        for offload in [Offload::Optimizer, Offload::OptimizerAndGradients] {
            assert!(of(offload) == want, "{offload} {max_grad_norm}");
        }
    }
}

#[test]
fn gradients_on_the_host_are_one_rank_s() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings_of(Offload::OptimizerAndGradients, OptimizerKind::RmsProp);
    let outcome = run_on(&Alone::in_parts(2), folder.path(), usize::MAX, |run| {
        train_pairs(&mut decoder(1), pairs(10), &settings, run)
    });
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), Kind::Input);
    assert!(error.to_string().contains("one rank"), "{error}");
}
