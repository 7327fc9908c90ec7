//! Trainings whose state ranks hold by ranges (`train.zero`): the bits of plain data parallelism, checkpoints that are the same
//! files, runs resumed by other ranks in another stage, and ends that all share.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::ranks::{At, Faulty, copy_folder, lines, short};
use super::*;
use crate::collective::Threads;

const STAGES: [ZeroStage; 4] =
    [ZeroStage::Off, ZeroStage::OptimizerState, ZeroStage::Gradients, ZeroStage::Weights];

/// What a training leaves: its outcome, the weights of every rank, and the files of its last checkpoint.
#[derive(PartialEq)]
struct Left {
    weights: Vec<Vec<(String, Vec<u32>)>>,
    lines: Vec<StepMetrics>,
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// Matrices that are cut (of more than 64 Ki numbers), and ones that are not.
fn wide(tied: bool) -> Decoder {
    let shape = serde_json::json!({
        "vocab_size": 1100, "hidden_size": 64, "intermediate_size": 1100, "tie_word_embeddings": tied,
    });
    selfplay_testing::decoder(&config(shape), 7)
}

/// The files of the newest checkpoint, without what names the run.
fn checkpoint_files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let Some(found) = checkpoint::latest(folder).unwrap() else { return Vec::new() };
    ["weights.safetensors", "optimizer.safetensors", "state.json"]
        .into_iter()
        .map(|name| (PathBuf::from(name), std::fs::read(found.path.join(name)).unwrap()))
        .collect()
}

/// Trains on `world` ranks; all of them are told to stop once `limit` steps were made.
fn on_ranks<O: Objective>(
    world: usize,
    folder: &Path,
    limit: usize,
    decoder: impl Fn() -> Decoder + Sync,
    objective: impl Fn(usize) -> O + Sync,
) -> Vec<(Result<TrainOutcome, TrainError>, Option<Decoder>)> {
    thread::scope(|scope| {
        let (decoder, objective) = (&decoder, &objective);
        let threads: Vec<_> = Threads::group(world)
            .into_iter()
            .map(|collective| {
                scope.spawn(move || {
                    let (mut decoder, objective) = (decoder(), objective(collective.rank()));
                    let outcome =
                        run_on(&collective, folder, limit, |run| train(&mut decoder, objective, run));
                    let decoder = outcome.is_ok().then_some(decoder);
                    (outcome, decoder)
                })
            })
            .collect();
        let ended = || TrainError::Data { problem: "the thread ended".into(), want: "an outcome".into() };
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| (Err(ended()), None))).collect()
    })
}

fn left<O: Objective>(
    world: usize,
    folder: &Path,
    decoder: impl Fn() -> Decoder + Sync,
    objective: impl Fn(usize) -> O + Sync,
) -> Left {
    let ranks = on_ranks(world, folder, usize::MAX, decoder, objective);
    let weights = ranks
        .into_iter()
        .map(|(outcome, decoder)| {
            summary(outcome.unwrap());
            weights(&decoder.unwrap())
        })
        .collect();
    Left { weights, lines: lines(folder), files: checkpoint_files(folder) }
}

/// The same by one rank in as many parts.
fn in_parts(parts: usize, folder: &Path, decoder: impl Fn() -> Decoder, objective: impl Objective) -> Left {
    let mut decoder = decoder();
    let outcome =
        run_on(&Alone::in_parts(parts), folder, usize::MAX, |run| train(&mut decoder, objective, run));
    summary(outcome.unwrap());
    let weights = vec![weights(&decoder); parts];
    Left { weights, lines: lines(folder), files: checkpoint_files(folder) }
}

/// Checks that all stages on `world` ranks leave what one rank leaves that takes the same parts.
#[track_caller]
fn same_in_all_stages<O: Objective>(
    what: &str,
    world: usize,
    decoder: impl Fn() -> Decoder + Sync,
    objective: impl Fn(ZeroStage) -> O + Sync,
) {
    let one = tempfile::tempdir().unwrap();
    let want = in_parts(world, one.path(), &decoder, objective(ZeroStage::Off));
    assert!(want.lines.len() >= 3 && want.files.len() == 3, "{what}");
    for stage in STAGES {
        let many = tempfile::tempdir().unwrap();
        let got = left(world, many.path(), &decoder, |_| objective(stage));
        assert_eq!(got.lines, want.lines, "{what}, zero = {stage}");
        assert!(got.weights == want.weights, "{what}, zero = {stage}: other weights");
        for ((name, got), (_, want)) in got.files.iter().zip(&want.files) {
            assert!(got == want, "{what}, zero = {stage}: {} differs", name.display());
        }
    }
}

fn few_steps(optimizer: OptimizerKind) -> TrainSettings {
    let momentum = if optimizer == OptimizerKind::RmsProp { 0.5 } else { 0.0 };
    TrainSettings {
        optimizer,
        momentum,
        centered: momentum > 0.0,
        weight_decay: 0.01,
        max_grad_norm: 0.3,
        epochs: 1,
        checkpoint_every: 2,
        ..short()
    }
}

#[test]
fn all_stages_have_the_bits_of_plain_data_parallelism() {
    for (world, optimizer, tied, micro_batch_tokens) in [
        (2, OptimizerKind::AdamW, false, 10_000),
        (2, OptimizerKind::RmsProp, true, 20),
        (2, OptimizerKind::AdamW8Bit, false, 20),
        (3, OptimizerKind::RmsProp8Bit, true, 10_000),
    ] {
        let settings =
            TrainSettings { micro_batch_tokens: micro_batch_tokens.into(), ..few_steps(optimizer) };
        let what = format!("{world} ranks, {optimizer}, tied {tied}");
        same_in_all_stages(
            &what,
            world,
            || wide(tied),
            |zero| PairObjective::new(pairs(10), &TrainSettings { zero, ..settings.clone() }),
        );
    }
}

#[test]
fn a_loss_that_needs_the_whole_batch_and_one_of_instructions_have_them_too() {
    let settings = TrainSettings { loss: LossKind::KtoPair, ..short() };
    same_in_all_stages(
        "kto-pair",
        3,
        || decoder(21),
        |zero| PairObjective::new(pairs(10), &TrainSettings { zero, ..settings.clone() }),
    );
    // Held-out losses after steps, and an early end: the best weights are put back.
    let examples: Vec<SftExample> = (0..12u32)
        .map(|i| {
            let ids: Vec<u32> = (0..4 + i % 6).map(|t| 3 + (i * 5 + t * 7) % 28).collect();
            SftExample {
                name: format!("instruction {i}"),
                spans: std::iter::once(2..ids.len()).collect(),
                ids,
            }
        })
        .collect();
    let train = TrainSettings { epochs: 12, learning_rate: 2e-2, ..short() };
    let sft = SftSettings { val_split: 0.25, val_every: 2, early_stop: Some(1), ..SftSettings::default() };
    same_in_all_stages(
        "sft",
        2,
        || decoder(21),
        |zero| {
            let train = TrainSettings { zero, ..train.clone() };
            SftObjective::new(examples.clone(), SftTrainSettings { train, sft: sft.clone() })
        },
    );
}

#[test]
fn preference_models_and_adapters_have_them_too() {
    let comparisons: Vec<TokenComparison> = (0..14u32)
        .map(|i| TokenComparison {
            name: format!("comparison {i}"),
            chosen: [3 + i % 8, 4].into_iter().chain((0..1 + i % 5).map(|t| 25 + (i + t) % 3)).collect(),
            rejected: [3 + i % 8, 4].into_iter().chain((0..2 + i % 3).map(|t| 10 + (i + t) % 9)).collect(),
            prompt_position: 1,
            ..TokenComparison::default()
        })
        .collect();
    let preference = PreferenceSettings { holdout: 0.25, tau: Some(1.0), ..Default::default() };
    same_in_all_stages(
        "preference model",
        2,
        || decoder(21),
        |zero| {
            let settings = PreferenceTrainSettings {
                train: TrainSettings { zero, ..short() },
                preference: preference.clone(),
            };
            PreferenceObjective::new(comparisons.clone(), &settings)
        },
    );
    let lora = LoraSettings { dropout: Some(0.1), ..LoraSettings::default() };
    same_in_all_stages(
        "adapter",
        2,
        || wide(false),
        |zero| {
            let lora = Some(lora.clone());
            PairObjective::new(pairs(10), &TrainSettings { zero, lora, ..few_steps(OptimizerKind::AdamW) })
        },
    );
}

#[test]
fn a_run_goes_on_in_another_stage_and_on_other_ranks() {
    let settings = TrainSettings { checkpoint_every: 0, ..few_steps(OptimizerKind::AdamW8Bit) };
    let objective =
        |zero: ZeroStage| PairObjective::new(pairs(10), &TrainSettings { zero, ..settings.clone() });
    let one = tempfile::tempdir().unwrap();
    let want = in_parts(2, one.path(), || wide(false), objective(ZeroStage::Off));
    for begun in [ZeroStage::Off, ZeroStage::Weights] {
        let stopped = tempfile::tempdir().unwrap();
        for (outcome, decoder) in on_ranks(2, stopped.path(), 2, || wide(false), |_| objective(begun)) {
            assert_eq!(outcome.unwrap(), TrainOutcome::Interrupted { step: 2 });
            assert_eq!(weights(&decoder.unwrap()).len(), want.weights[0].len());
        }
        for then in STAGES {
            let folder = tempfile::tempdir().unwrap();
            copy_folder(stopped.path(), folder.path());
            let got = left(2, folder.path(), || wide(false), |_| objective(then));
            assert!(got == want, "from {begun} to {then}");
        }
        let folder = tempfile::tempdir().unwrap();
        copy_folder(stopped.path(), folder.path());
        assert!(in_parts(2, folder.path(), || wide(false), objective(ZeroStage::Weights)) == want, "{begun}");
        // Another number of ranks: other last bits.
        let got = left(3, stopped.path(), || wide(false), |_| objective(ZeroStage::Gradients));
        for (got, want) in got.lines.iter().zip(&want.lines) {
            assert!((got.loss - want.loss).abs() < 1e-3 * want.loss.abs(), "{got:?}, {want:?}");
        }
        assert!(got.weights[0] == got.weights[2]);
    }
}

#[test]
fn a_damaged_checkpoint_is_named_on_rank_0() {
    let objective = |zero: ZeroStage| PairObjective::new(pairs(10), &TrainSettings { zero, ..short() });
    let folder = tempfile::tempdir().unwrap();
    on_ranks(2, folder.path(), 2, || decoder(21), |_| objective(ZeroStage::Weights));
    let path = checkpoint::latest(folder.path()).unwrap().unwrap().path.join("optimizer.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    atomic::write_bytes(&path, &bytes).unwrap();
    let ends = on_ranks(2, folder.path(), usize::MAX, || decoder(21), |_| objective(ZeroStage::Weights));
    let texts: Vec<String> = ends.into_iter().map(|(outcome, _)| outcome.unwrap_err().to_string()).collect();
    assert!(texts[0].contains("optimizer.safetensors") && texts[0].contains("damaged"), "{texts:?}");
    assert!(texts[1].contains("rank 0"), "{texts:?}");
}

#[test]
fn first_gradients_are_written_whole() {
    let gradients = |zero: ZeroStage| {
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings { zero, save_initial_gradients: true, max_steps: Some(1), ..short() };
        left(2, folder.path(), || wide(false), |_| PairObjective::new(pairs(6), &settings));
        std::fs::read(folder.path().join("gradients_step_1.safetensors")).unwrap()
    };
    let want = gradients(ZeroStage::Off);
    assert!(STAGES.into_iter().all(|stage| gradients(stage) == want));
}

#[test]
fn a_rank_that_fails_ends_all_whatever_ranks_hold() {
    let settings = TrainSettings { loss: LossKind::KtoPair, batch_size: 10, epochs: 4, ..short() };
    for zero in [ZeroStage::OptimizerState, ZeroStage::Gradients, ZeroStage::Weights] {
        for (at, faulty) in [(At::LogProbs, 1), (At::Gradient, 0), (At::Gradient, 2), (At::EpochEnd, 1)] {
            let folder = tempfile::tempdir().unwrap();
            let settings = TrainSettings { zero, ..settings.clone() };
            let objective = |rank: usize| Faulty {
                inner: PairObjective::new(pairs(10), &settings),
                at: (rank == faulty).then_some(at),
                calls: AtomicUsize::new(0),
            };
            let ends = on_ranks(3, folder.path(), usize::MAX, || decoder(21), objective);
            for (rank, (outcome, _)) in ends.into_iter().enumerate() {
                let error = outcome.unwrap_err();
                if rank == faulty {
                    assert!(error.to_string().contains("disk is full"), "{zero}, {at:?}: {error}");
                } else {
                    let is_named = matches!(error, TrainError::RankLost { rank } if rank == faulty);
                    assert!(is_named, "{zero}, {at:?}: {error}");
                }
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let settings = TrainSettings { zero, ..short() };
        let ends = on_ranks(
            2,
            folder.path(),
            usize::MAX,
            || decoder(21),
            |rank| Faulty {
                inner: PairObjective::new(pairs(10), &settings),
                at: (rank == 1).then_some(At::Panic),
                calls: AtomicUsize::new(0),
            },
        );
        assert!(matches!(ends[0].0, Err(TrainError::RankLost { rank: 1 })), "{zero}: {:?}", ends[0].0);
    }
}

#[test]
fn what_is_not_finite_is_named_alike_whatever_ranks_hold() {
    for zero in STAGES {
        let folder = tempfile::tempdir().unwrap();
        let objective = |_: usize| {
            let mut bad = pairs(6);
            bad.iter_mut().for_each(|p| p.reference = Some(PairLogProbs { chosen: -9.0, rejected: -9.0 }));
            bad[4].reference = Some(PairLogProbs { chosen: -1e200, rejected: -9.0 });
            let settings =
                TrainSettings { loss: LossKind::Gpo, shuffle: false, batch_size: 3, zero, ..short() };
            PairObjective::new(bad, &settings)
        };
        for (outcome, _) in on_ranks(3, folder.path(), usize::MAX, || decoder(21), objective) {
            let text = outcome.unwrap_err().to_string();
            assert!(text.contains("step 2") && text.contains("pair 4"), "{zero}: {text}");
        }
    }
}

#[test]
fn ranks_in_different_stages_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let objective = |rank: usize| {
        let zero = if rank == 0 { ZeroStage::Off } else { ZeroStage::Weights };
        PairObjective::new(pairs(6), &TrainSettings { zero, loss: LossKind::Simpo, ..short() })
    };
    for (outcome, _) in on_ranks(2, folder.path(), usize::MAX, || decoder(21), objective) {
        assert!(matches!(outcome, Err(TrainError::RanksDiffer { what: "settings" })));
    }
}
