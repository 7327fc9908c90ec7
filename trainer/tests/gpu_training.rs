//! Training by the GPU forms, run by the emulator: the CPU's numbers in f32, and masters in bf16.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use candle_core::DType;
use selfplay_model::gpu::emulate;
use selfplay_model::{Decoder, LoadOptions, ModelShare};
use selfplay_records::atomic;
use selfplay_testing::Emulator;
use selfplay_testing::decoder::{config, decoder_in};
use selfplay_testing::pair_ids::{PairIds, pair_ids};
use selfplay_trainer::collective::{Alone, Collective, Threads};
use selfplay_trainer::{
    LossKind, Offload, OptimizerKind, PairObjective, PreferenceHeadKind, PreferenceObjective,
    PreferenceSettings, PreferenceTarget, PreferenceTrainSettings, Recompute, StepMetrics, TokenComparison,
    TokenPair, TrainOutcome, TrainRun, TrainSettings, ZeroStage,
};

/// Two blocks, grouped queries, biases; nothing is a multiple of a vector.
fn decoder(dtype: DType) -> Decoder {
    let shape = serde_json::json!({
        "model_type": "qwen2", "vocab_size": 37, "hidden_size": 20, "intermediate_size": 27, "num_attention_heads": 2,
        "num_key_value_heads": 1, "use_sliding_window": false,
    });
    decoder_in(&config(shape), 5, dtype)
}

fn pairs() -> Vec<TokenPair> {
    pair_ids(6)
        .into_iter()
        .map(|PairIds { name, prompt, chosen, rejected }| TokenPair {
            name,
            prompt,
            chosen,
            rejected,
            target: PreferenceTarget { probability: Some(0.8), ..PreferenceTarget::default() },
            ..TokenPair::default()
        })
        .collect()
}

fn settings(optimizer: OptimizerKind) -> TrainSettings {
    TrainSettings {
        loss: LossKind::Dpo,
        beta: 0.5,
        optimizer,
        learning_rate: 1e-3,
        warmup_ratio: 0.0,
        weight_decay: 0.01,
        max_grad_norm: 0.5,
        batch_size: 3,
        micro_batch_tokens: 20.into(),
        epochs: 3,
        checkpoint_every: 0,
        ..TrainSettings::default()
    }
}

/// Trains until `limit` steps are done; every step's loss and norm.
fn train(decoder: &mut Decoder, settings: &TrainSettings, folder: &Path, limit: usize) -> Vec<(f64, f64)> {
    let steps = std::cell::Cell::new(0);
    let mut lines = Vec::new();
    let stop = || steps.get() >= limit;
    let mut progress = |m: &StepMetrics| {
        steps.set(m.step);
        lines.push((m.loss, m.grad_norm));
    };
    let mut run = TrainRun {
        folder,
        seed: 42,
        stop: &stop,
        progress: &mut progress,
        keep_checkpoints: 1,
        collective: &Alone::default(),
    };
    let objective = PairObjective::new(pairs(), settings);
    let outcome = selfplay_trainer::train(decoder, objective, &mut run).unwrap();
    assert_eq!(matches!(outcome, TrainOutcome::Finished(_)), limit == usize::MAX);
    lines
}

/// All weights with all their digits.
fn weights(decoder: &Decoder) -> Vec<f32> {
    let values = decoder.parameters().iter().map(|(_, p)| p.full().to_dtype(DType::F32).unwrap());
    values.flat_map(|value| value.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
}

/// Every optimizer with every part of its state.
fn cases() -> Vec<TrainSettings> {
    let rmsprop = settings(OptimizerKind::RmsProp);
    vec![
        rmsprop.clone(),
        TrainSettings { centered: true, ..rmsprop.clone() },
        TrainSettings { momentum: 0.9, ..rmsprop.clone() },
        TrainSettings { momentum: 0.8, centered: true, recompute: Recompute::Never, ..rmsprop },
        settings(OptimizerKind::AdamW),
    ]
}

#[test]
fn f32_steps_are_those_of_the_cpu() {
    for settings in cases() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut cpu = decoder(DType::F32);
        let want = train(&mut cpu, &settings, folders[0].path(), usize::MAX);
        let Some(_gpu) = Emulator::start() else { return };
        let mut gpu = decoder(DType::F32);
        let got = train(&mut gpu, &settings, folders[1].path(), usize::MAX);
        assert_eq!(got.len(), 6);
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            assert!((got.0 - want.0).abs() <= 1e-4 * want.0.abs(), "step {step}: loss {got:?} {want:?}");
            assert!((got.1 - want.1).abs() <= 1e-3 * want.1.abs(), "step {step}: norm {got:?} {want:?}");
        }
        // RMSProp and Adam divide by the gradient's size: where it is rounding, the direction is too. Few may differ.
        let (got, want) = (weights(&gpu), weights(&cpu));
        let far = got.iter().zip(&want).filter(|(g, w)| (*g - *w).abs() > 2e-4).count();
        assert!(far * 200 <= want.len(), "{far} of {} weights differ", want.len());
    }
}

/// Loss and gradient norm of every step of training a general preference model.
fn train_preferences(dtype: DType) -> Vec<(f64, f64)> {
    let comparisons: Vec<TokenComparison> = pairs()
        .into_iter()
        .map(|pair| TokenComparison {
            prompt_position: pair.prompt.len() - 1,
            chosen: [&pair.prompt[..], &pair.chosen].concat(),
            rejected: [&pair.prompt[..], &pair.rejected].concat(),
            name: pair.name,
            ..TokenComparison::default()
        })
        .collect();
    let train = TrainSettings { learning_rate: 1e-3, epochs: 1, ..settings(OptimizerKind::AdamW) };
    let preference = PreferenceSettings {
        kind: PreferenceHeadKind::Gpm,
        holdout: 0.0,
        tau: Some(1.0),
        ..Default::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut lines = Vec::new();
    let mut progress = |m: &StepMetrics| lines.push((m.loss, m.grad_norm));
    let mut run = TrainRun {
        folder: folder.path(),
        seed: 42,
        stop: &|| false,
        progress: &mut progress,
        keep_checkpoints: 1,
        collective: &Alone::default(),
    };
    let objective = PreferenceObjective::new(comparisons, &PreferenceTrainSettings { train, preference });
    selfplay_trainer::train(&mut decoder(dtype), objective, &mut run).unwrap();
    lines
}

#[test]
fn preference_models_train_as_on_the_cpu() {
    let want = train_preferences(DType::F32);
    let Some(_gpu) = Emulator::start() else { return };
    for (dtype, bound) in [(DType::F32, 1e-4), (DType::BF16, 5e-2)] {
        let got = train_preferences(dtype);
        assert_eq!(got.len(), 2);
        for (got, want) in got.iter().zip(&want) {
            assert!((got.0 - want.0).abs() <= bound * want.0.abs(), "{dtype:?}: loss {got:?} {want:?}");
            assert!((got.1 - want.1).abs() <= bound * want.1.abs(), "{dtype:?}: norm {got:?} {want:?}");
        }
    }
}

#[test]
fn bf16_weights_move_by_their_masters_and_resume_to_the_same_bits() {
    for optimizer in [OptimizerKind::RmsProp, OptimizerKind::AdamW] {
        let Some(_gpu) = Emulator::start() else { return };
        // So small a rate moves no bf16 weight in one step.
        let settings = TrainSettings { learning_rate: 1e-6, ..settings(optimizer) };
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let before = weights(&decoder(DType::BF16));
        let mut whole = decoder(DType::BF16);
        train(&mut whole, &settings, folders[0].path(), usize::MAX);
        let after = weights(&whole);
        let moved = before.iter().zip(&after).filter(|(b, a)| b != a).count();
        assert!(moved * 10 > before.len() * 8, "{moved} of {} masters moved", before.len());
        for (_, parameter) in whole.parameters().iter() {
            assert_eq!(parameter.value.dtype(), DType::BF16);
            let rounded = parameter.full().to_dtype(DType::BF16).unwrap();
            let bits = |t: &candle_core::Tensor| -> Vec<u16> {
                let values = t.flatten_all().unwrap().to_vec1::<half::bf16>().unwrap();
                values.into_iter().map(half::bf16::to_bits).collect()
            };
            assert_eq!(
                bits(&parameter.value),
                bits(&rounded),
                "{}: the copy is the master's",
                parameter.name
            );
        }
        train(&mut decoder(DType::BF16), &settings, folders[1].path(), 2);
        let mut resumed = decoder(DType::BF16);
        train(&mut resumed, &settings, folders[1].path(), usize::MAX);
        assert!(weights(&resumed) == after, "a resumed run ends with other bits");
    }
}

#[test]
fn an_offloaded_optimizer_gives_the_same_bits() {
    for (number, settings) in cases().into_iter().enumerate() {
        let Some(_gpu) = Emulator::start() else { return };
        // Without clipping weights move while the backward goes on.
        let max_grad_norm = if number % 2 == 0 { settings.max_grad_norm } else { 0.0 };
        let settings = TrainSettings { max_grad_norm, ..settings };
        for offload in [Offload::Optimizer, Offload::OptimizerAndGradients] {
            let host = TrainSettings { offload, ..settings.clone() };
            let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
            for dtype in [DType::BF16, DType::F32] {
                let (mut device, mut offloaded) = (decoder(dtype), decoder(dtype));
                let folder = |place: usize| folders[place].path().join(format!("{dtype:?}"));
                let want = train(&mut device, &settings, &folder(0), usize::MAX);
                assert_eq!(train(&mut offloaded, &host, &folder(1), usize::MAX), want);
                assert!(weights(&device) == weights(&offloaded), "{dtype:?} {settings:?}");
                // The weights that are computed with, too.
                let computed = |decoder: &Decoder| -> Vec<f32> {
                    let values =
                        decoder.parameters().iter().map(|(_, p)| p.value.to_dtype(DType::F32).unwrap());
                    values.flat_map(|value| value.flatten_all().unwrap().to_vec1::<f32>().unwrap()).collect()
                };
                assert!(computed(&device) == computed(&offloaded), "{dtype:?}");
                train(&mut decoder(dtype), &host, &folder(2), 2);
                let mut resumed = decoder(dtype);
                train(&mut resumed, &host, &folder(2), usize::MAX);
                assert!(
                    weights(&resumed) == weights(&device),
                    "{dtype:?}: a resumed run ends with other bits"
                );
            }
        }
    }
}

/// Two ranks in bf16: what is saved has all digits of the masters, of which each rank holds its own.
#[test]
fn ranks_that_have_loaded_their_shares_save_what_ranks_that_have_all_save() {
    let Some(emulator) = Emulator::build().map(Arc::new) else { return };
    let model = tempfile::tempdir().unwrap();
    decoder(DType::F32).save(model.path(), Some(DType::BF16), usize::MAX).unwrap();
    let settings = TrainSettings { zero: ZeroStage::Weights, epochs: 1, ..settings(OptimizerKind::AdamW) };
    let saved = |in_shares: bool| {
        let folder = tempfile::tempdir().unwrap();
        let work = |collective: Threads| {
            let _gpu = emulate(emulator.clone());
            let rank = collective.rank();
            let share = in_shares.then_some(ModelShare { rank, world: 2 });
            let options = LoadOptions { dtype: Some(DType::BF16), share, ..LoadOptions::default() };
            let mut decoder = Decoder::load(model.path(), &options).unwrap();
            assert_eq!((decoder.dtype(), decoder.is_divided()), (DType::BF16, in_shares));
            let mut run = TrainRun {
                folder: folder.path(),
                seed: 42,
                stop: &|| false,
                progress: &mut |_| (),
                keep_checkpoints: 1,
                collective: &collective,
            };
            let objective = PairObjective::new(pairs(), &settings);
            selfplay_trainer::train(&mut decoder, objective, &mut run).unwrap();
            if rank == 0 {
                let policy = folder.path().join("policy");
                atomic::create_dir_all(&policy).unwrap();
                decoder.save(&policy, Some(DType::F32), usize::MAX).unwrap();
            }
            decoder.end_division().unwrap();
        };
        thread::scope(|scope| {
            let work = &work;
            for collective in Threads::group(2) {
                scope.spawn(move || work(collective));
            }
        });
        std::fs::read(folder.path().join("policy/model.safetensors")).unwrap()
    };
    let whole = saved(false);
    assert!(saved(true) == whole);
}
