//! The loop on tiny random decoders: what its tests share.

mod anchors;
mod groups;
mod memory;
mod offload;
mod other_objectives;
mod pairs;
mod ranks;
mod sft;
mod shared_log_probs;
mod shares;
mod zero;

use std::cell::Cell;
use std::path::Path;

use selfplay_model::{Decoder, Gradients, PreferenceHeads};
use selfplay_records::{ExampleKind, HasKind, Kind, atomic};
use selfplay_testing::decoder::config;
use selfplay_testing::pair_ids::{PairIds, pair_ids};

use super::{checkpoint, read_lines};
use crate::collective::{Alone, Collective};
use crate::loss::LossSettings;
use crate::objectives::{PairMembers, ReferencePass};
use crate::*;

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
                ..PreferenceTarget::default()
            },
            initial: Some(PairLogProbs { chosen: -9.5, rejected: -11.0 }),
            ..TokenPair::default()
        })
        .collect()
}

/// The losses over pairs.
fn losses_of_pairs() -> Vec<LossKind> {
    LossKind::ALL.into_iter().filter(|loss| loss.examples() == ExampleKind::Pairs).collect()
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
