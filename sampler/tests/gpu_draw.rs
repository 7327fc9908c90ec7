//! The GPU's kernel that draws tokens, run by the emulator, against the sampler's own choice.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use selfplay_model::gpu::emulate;
use selfplay_model::ops::draw::{RowDraw, draw};
use selfplay_sampler::{PickRule, Picker, PromptStream, Sampling};
use selfplay_testing::{Emulator, Random};

/// Rows of many shapes: peaked, flat, with ties, with −∞, all but equal.
fn rows(vocab: usize) -> Vec<Vec<f32>> {
    let scaled = |seed, factor: f32| {
        let mut random = Random::new(seed);
        (0..vocab).map(|_| factor * random.signed()).collect::<Vec<f32>>()
    };
    vec![
        scaled(1, 20.0),
        scaled(2, 3.0),
        scaled(3, 0.01),
        scaled(4, 2.0).into_iter().map(f32::round).collect(),
        vec![1.5; vocab],
        scaled(5, 5.0)
            .into_iter()
            .enumerate()
            .map(|(i, x)| if i % 3 == 0 { x } else { f32::NEG_INFINITY })
            .collect(),
        scaled(6, 1.0).into_iter().enumerate().map(|(i, x)| if i == vocab / 2 { 30.0 } else { x }).collect(),
        scaled(7, 100.0),
    ]
}

/// Filters in all combinations: (temperature, top-p, top-k, min-p).
const RULES: [(f64, f64, usize, f64); 13] = [
    (0.0, 1.0, 0, 0.0),
    (1.0, 1.0, 0, 0.0),
    (1.0, 0.9, 0, 0.0),
    (0.7, 0.9, 0, 0.0),
    (2.5, 0.5, 0, 0.0),
    (0.7, 0.999, 0, 0.02),
    (1.0, 1.0, 20, 0.0),
    (1.3, 0.8, 7, 0.05),
    (1.0, 1.0, 0, 0.3),
    (0.7, 0.3, 1500, 0.0),
    (1e-3, 0.9, 0, 0.0),
    (1.0, 0.9, 1, 0.0),
    // More than a vocabulary, and than 32 bits.
    (1.0, 0.9, usize::MAX, 0.0),
];

fn rules() -> Vec<PickRule> {
    let rule = |(temperature, top_p, top_k, min_p)| {
        PickRule::new(&Sampling { temperature, top_p, top_k, min_p, ..Sampling::default() })
    };
    RULES.map(rule).to_vec()
}

/// Draws as the device makes them in one launch, each by its rule of `rules`, against the sampler's own choice.
fn assert_the_samplers_own(
    emulator: &Emulator,
    rows: &[Vec<f32>],
    stream: &PromptStream,
    draws: &[RowDraw],
    rules: &[PickRule],
) {
    let logits = Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap();
    let got = {
        let _gpu = emulate(Arc::new(emulator.clone()));
        draw(&logits, draws).unwrap()
    };
    assert_eq!(got.len(), draws.len());
    let mut picker = Picker::default();
    for ((draw, rule), got) in draws.iter().zip(rules).zip(got) {
        let row = &rows[draw.row as usize];
        picker.prepare(row, rule).unwrap();
        let want = picker.draw(row, stream.uniform(draw.sample, draw.step));
        let got = got.unwrap();
        assert_eq!(got.id, want.id, "vocabulary {}, {draw:?}", row.len());
        assert!((got.logprob - want.logprob).abs() <= 1e-6 * want.logprob.abs().max(1.0));
    }
}

fn row_draw(stream: &PromptStream, row: usize, sample: u32, rule: &PickRule) -> RowDraw {
    let (key, tag) = stream.words();
    RowDraw { row: row as u32, step: row as u32 + 7, sample, tag, key, rule: rule.on_device() }
}

#[test]
fn every_draw_is_the_samplers_own() {
    let Some(emulator) = Emulator::build() else { return };
    // Below a block of threads, one, and so many that the tied row needs more than one level of buckets.
    for vocab in [5, 333, 4_000] {
        let rows = rows(vocab);
        for (case, rule) in rules().into_iter().enumerate() {
            let stream = PromptStream::new(42, 1, &format!("{vocab} {case}"));
            let draws: Vec<RowDraw> = (0..rows.len() * 3)
                .map(|place| row_draw(&stream, place / 3, place as u32 % 3, &rule))
                .collect();
            assert_the_samplers_own(&emulator, &rows, &stream, &draws, &vec![rule; draws.len()]);
        }
    }
}

#[test]
fn rows_of_different_rules_share_a_launch() {
    let Some(emulator) = Emulator::build() else { return };
    for vocab in [5, 333, 4_000] {
        let (rows, rules) = (rows(vocab), rules());
        let stream = PromptStream::new(7, 2, &vocab.to_string());
        // Every rule on every row, neighbours always of different rules; a row's draws have different rules too.
        let (draws, by): (Vec<RowDraw>, Vec<PickRule>) = (0..rows.len() * rules.len())
            .map(|place| {
                let rule = rules[(place * 5) % rules.len()];
                (row_draw(&stream, place % rows.len(), place as u32, &rule), rule)
            })
            .unzip();
        assert_the_samplers_own(&emulator, &rows, &stream, &draws, &by);
    }
}

#[test]
fn rows_that_are_not_finite_give_no_token() {
    let Some(emulator) = Emulator::build() else { return };
    let mut values = vec![0.5f32; 4 * 40];
    values[17] = f32::NAN;
    values[40 + 3] = f32::INFINITY;
    values[80..120].fill(f32::NEG_INFINITY);
    let logits = Tensor::from_vec(values, (4, 40), &Device::Cpu).unwrap();
    let _gpu = emulate(Arc::new(emulator));
    for rule in rules() {
        let rule = rule.on_device();
        let draws: Vec<RowDraw> =
            (0..4).map(|row| RowDraw { row, step: 0, sample: 0, tag: [1, 2], key: [3, 4], rule }).collect();
        let drawn = draw(&logits, &draws).unwrap();
        assert_eq!(drawn.iter().map(Option::is_some).collect::<Vec<_>>(), [false, false, false, true]);
        let beyond = RowDraw { row: 4, ..draws[0] };
        assert!(draw(&logits, &[beyond]).is_err());
    }
}
