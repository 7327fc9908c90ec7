//! The loop on tiny random decoders: loss falls, micro-batches change nothing, resume is exact.
//!
//! Past 400 lines because the cases are one list, read side by side.

use std::cell::Cell;
use std::path::Path;

use selfplay_model::{Decoder, Gradients, PreferenceHeads};
use selfplay_records::{HasKind, Kind, atomic};
use selfplay_testing::decoder::config;
use selfplay_testing::pair_ids::{PairIds, pair_ids};

use super::{checkpoint, read_lines};
use crate::collective::{Alone, Collective};
use crate::loss::LossSettings;
use crate::objectives::{ReferencePass, fill_references};
use crate::*;

mod ranks;

const VOCAB: u32 = 32;

/// Two blocks, grouped queries, random weights.
fn decoder(seed: u64) -> Decoder {
    let shape = serde_json::json!({"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 24});
    selfplay_testing::decoder(&config(shape), seed)
}

/// Pairs of uneven lengths; the chosen response repeats a token that the rejected one never has.
fn pairs(count: u32) -> Vec<TokenPair> {
    pair_ids(count)
        .into_iter()
        .map(|PairIds { name, prompt, chosen, rejected }| TokenPair {
            name,
            prompt,
            chosen,
            rejected,
            target: PreferenceTarget {
                probability: Some(0.8),
                probability_win: Some(0.7),
                probability_lose: Some(0.3),
                score: Some(1.5),
                score_win: Some(1.0),
                score_lose: Some(-1.0),
            },
            ..TokenPair::default()
        })
        .collect()
}

fn settings() -> TrainSettings {
    TrainSettings {
        loss: LossKind::Dpo,
        beta: 0.5,
        learning_rate: 2e-3,
        warmup_ratio: 0.0,
        batch_size: 4,
        epochs: 4,
        checkpoint_every: 0,
        ..TrainSettings::default()
    }
}

/// A run in `folder` that is told to stop once `limit` steps were made by it.
fn run<T>(folder: &Path, limit: usize, work: impl FnOnce(&mut TrainRun<'_>) -> T) -> T {
    run_on(&Alone::default(), folder, limit, work)
}

fn run_on<T>(
    collective: &dyn Collective,
    folder: &Path,
    limit: usize,
    work: impl FnOnce(&mut TrainRun<'_>) -> T,
) -> T {
    let steps = Cell::new(0);
    let stop = || steps.get() >= limit;
    let mut progress = |_: &StepMetrics| steps.set(steps.get() + 1);
    work(&mut TrainRun {
        folder,
        seed: 42,
        stop: &stop,
        progress: &mut progress,
        keep_checkpoints: 1,
        collective,
    })
}

fn train_pairs(
    decoder: &mut Decoder,
    pairs: Vec<TokenPair>,
    settings: &TrainSettings,
    run: &mut TrainRun<'_>,
) -> Result<TrainOutcome, TrainError> {
    train(decoder, PairObjective::new(pairs, settings), run)
}

fn train_ten(decoder: &mut Decoder, settings: &TrainSettings, folder: &Path, limit: usize) -> TrainOutcome {
    run(folder, limit, |run| train_pairs(decoder, pairs(10), settings, run)).unwrap()
}

fn summary(outcome: TrainOutcome) -> TrainSummary {
    match outcome {
        TrainOutcome::Finished(summary) => summary,
        TrainOutcome::Interrupted { step } => panic!("interrupted at {step}"),
    }
}

fn weights(decoder: &Decoder) -> Vec<(String, Vec<u32>)> {
    decoder
        .parameters()
        .iter()
        .map(|(_, p)| {
            let values = p.value.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            (p.name.clone(), values.into_iter().map(f32::to_bits).collect())
        })
        .collect()
}

#[test]
fn every_loss_trains_and_its_loss_falls() {
    for loss in LossKind::ALL {
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
    for loss in LossKind::ALL {
        for sft_weight in [0.0, 0.3] {
            let sft_weight = if loss == LossKind::Orpo { 0.0 } else { sft_weight };
            let loss = LossSettings::from(&TrainSettings { loss, sft_weight, ..settings() });
            let gradient = |micro_batch_tokens: usize, recompute: bool| {
                let mut grads = Gradients::zeros(decoder.parameters()).unwrap();
                let pass = PassSettings { micro_batch_tokens, recompute };
                let report = pair_gradients(&decoder, &all, &loss, pass, &mut grads).unwrap();
                let values: Vec<f32> = grads
                    .iter()
                    .flat_map(|(_, g)| g.flatten_all().unwrap().to_vec1::<f32>().unwrap())
                    .collect();
                (report, values)
            };
            let (whole, one) = gradient(10_000, false);
            let (parts, many) = gradient(20, true);
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
    let fill = |decoder: &Decoder, pairs: &mut [TokenPair], stop: &dyn Fn() -> bool| {
        let mut pairs: Vec<&mut TokenPair> = pairs.iter_mut().collect();
        let (folder, collective) = (folder.path(), &Alone::default());
        let pass = ReferencePass { decoder, micro_batch_tokens: 64, folder, stop, collective };
        fill_references(&mut pairs, &pass).unwrap()
    };
    assert_eq!(fill(&decoder, &mut all, &|| true), Preparation::Stopped);
    assert_eq!(fill(&decoder, &mut all, &|| false), Preparation::Complete);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
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
    // A second time they are read, whatever the weights are then.
    let mut again = pairs(70);
    let other = super::tests::decoder(9);
    fill(&other, &mut again, &|| false);
    assert!(again.iter().zip(&all).all(|(a, b)| a.reference == b.reference));
}

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
        micro_batch_tokens: 20,
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
        })
        .collect();
    for kind in [PreferenceHeadKind::Gpm, PreferenceHeadKind::BradleyTerry] {
        let settings = PreferenceTrainSettings {
            train: TrainSettings {
                batch_size: 12,
                epochs: 8,
                micro_batch_tokens: 40,
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
        })
        .collect();
    let settings = PreferenceTrainSettings {
        train: TrainSettings {
            batch_size: 5,
            micro_batch_tokens: 16,
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
