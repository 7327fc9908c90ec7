//! Steps of sampling as a GPU is given them: what is captured, what the host waits for, how many rows there may be.

use std::sync::Arc;

use candle_core::{DType, Device};
use selfplay_model::decoder::{DecodeGraphs, DeviceStep, FedToken, StepCounts};
use selfplay_model::gpu::emulate;
use selfplay_model::ops::draw::{DrawRule, Drawn, RowDraw, draw};
use selfplay_model::{Decoder, KvCache, PagedRow};
use selfplay_testing::decoder::config;
use selfplay_testing::{Emulator, LateEmulator};
use serde_json::{Value, json};

const VOCAB: usize = 60;
/// Rows that decode, beside one whose prompt comes in chunks.
const DECODING: usize = 3;
const CHUNK: usize = 5;
const STEPS: usize = 8;

fn decoder(keys: Value) -> Decoder {
    let mut config = config(json!({"vocab_size": VOCAB}));
    selfplay_testing::decoder::extend(&mut config, keys);
    let mut decoder = selfplay_testing::decoder(&config, 5);
    decoder.set_batch_invariant(true);
    decoder
}

fn row_draw(row: usize, sample: usize, step: usize) -> RowDraw {
    let rule = DrawRule { temperature: 1.0, inverse: 1.0, top_k: 0, top_p: 0.9, min_p: 0.0 };
    RowDraw { row: row as u32, step: step as u32, sample: sample as u32, tag: [1, 2], key: [3, 4], rule }
}

/// A step's rows: each has one page more from the fifth step on.
struct MixedStep {
    pages: Vec<Vec<u32>>,
    number: usize,
}

impl MixedStep {
    fn new(number: usize) -> Self {
        let pages = if number < 4 { 3 } else { 4 };
        let of_row = |row: usize| (0..pages).map(|place| (place * (DECODING + 1) + row) as u32).collect();
        Self { pages: (0..=DECODING).map(of_row).collect(), number }
    }

    fn rows(&self) -> Vec<PagedRow<'_>> {
        let row = |row: usize| match row < DECODING {
            true => (1, self.number),
            false => (CHUNK, CHUNK * self.number),
        };
        (0..=DECODING)
            .map(|place| {
                let (new_tokens, context) = row(place);
                PagedRow { new_tokens, context, pages: &self.pages[place], shared: 0 }
            })
            .collect()
    }

    /// The rows' tokens, then the prompt's.
    fn ids(&self, last: &[u32; DECODING]) -> Vec<u32> {
        let prompt = (0..CHUNK).map(|place| ((self.number * 13 + place * 7 + 1) % VOCAB) as u32);
        last.iter().copied().chain(prompt).collect()
    }

    fn draws(&self) -> Vec<RowDraw> {
        (0..DECODING).map(|row| row_draw(row, row, self.number)).collect()
    }
}

const LOGIT_ROWS: [usize; DECODING] = [0, 1, 2];
const FIRST: [u32; DECODING] = [3, 9, 12];

/// What the steps draw, each read before the next one is begun, by the forms that nothing captures.
fn drawn_one_by_one(decoder: &Decoder) -> Vec<Vec<Option<Drawn>>> {
    let mut cache = KvCache::new(decoder.architecture(), 16, DType::F32, &Device::Cpu).unwrap();
    let mut last = FIRST;
    let mut run = |number| {
        let step = MixedStep::new(number);
        let hidden = decoder.forward_paged(&step.ids(&last), &step.rows(), &LOGIT_ROWS, &mut cache).unwrap();
        let drawn = draw(&decoder.logits(&hidden).unwrap(), &step.draws()).unwrap();
        for (last, drawn) in last.iter_mut().zip(&drawn) {
            *last = drawn.unwrap().id;
        }
        drawn
    };
    (0..STEPS).map(&mut run).collect()
}

/// A prompt comes in chunks beside rows that decode, on a device that does nothing before somebody waits: one wait a step, with
/// another step under way; no memory is asked for after the first steps; from the third on they are replayed, also when the
/// cache has grown meanwhile; and they draw what they draw one by one.
#[test]
fn small_steps_with_prompts_are_captured_and_never_stall() {
    let decoder = decoder(json!({}));
    let want = {
        let Some(_gpu) = Emulator::start() else { return };
        drawn_one_by_one(&decoder)
    };
    let Some(late) = LateEmulator::build() else { return };
    let _gpu = emulate(Arc::new(late.clone()));
    let cache = KvCache::growing(decoder.architecture(), 12, 40, DType::F32, &Device::Cpu).unwrap();
    let (mut cache, mut graphs, mut got) = (cache.unwrap(), DecodeGraphs::default(), Vec::new());
    for number in 0..STEPS {
        let (step, before) = (MixedStep::new(number), late.counts());
        if number == 4 {
            assert_eq!((cache.pages(), cache.grow_to(16).unwrap()), (12, 16));
        }
        let last = if number == 0 { FIRST } else { [FedToken::UNKNOWN; DECODING] };
        let (ids, rows, draws) = (step.ids(&last), step.rows(), step.draws());
        let fed: Vec<FedToken> = match number {
            0 => Vec::new(),
            _ => (0..DECODING).map(|place| FedToken { place, draw: place }).collect(),
        };
        let begun = DeviceStep { ids: &ids, fed: &fed, rows: &rows, logit_rows: &LOGIT_ROWS, draws: &draws };
        decoder.begin_step(&begun, &mut cache, &mut graphs).unwrap();
        let started = late.counts();
        assert_eq!(started.waits, before.waits, "step {number} waited before it was begun");
        assert!(number < 2 || started.staging == before.staging, "step {number} asked for memory");
        if number > 0 {
            got.push(graphs.finish().unwrap());
            let read = late.counts();
            assert_eq!((read.waits, read.drained), (before.waits + 1, 0), "step {number}");
        }
    }
    got.push(graphs.finish().unwrap());
    assert_eq!(got, want);
    // The first step finds the device without work, the second one is started while the first is under way.
    let counts = StepCounts { begun: STEPS, replayed: STEPS - 2, ahead: 1, waits: STEPS };
    assert_eq!((graphs.counts(), late.counts().captures), (counts, 1));
}

/// A chunk of a prompt without logits has no size of its own: its kernels are started one by one.
#[test]
fn chunks_without_logits_are_started_ahead() {
    let decoder = decoder(json!({}));
    let Some(late) = LateEmulator::build() else { return };
    let _gpu = emulate(Arc::new(late.clone()));
    let mut cache = KvCache::new(decoder.architecture(), 2, DType::F32, &Device::Cpu).unwrap();
    let mut graphs = DecodeGraphs::default();
    for number in 0..4 {
        let rows = [PagedRow { new_tokens: CHUNK, context: CHUNK * number, pages: &[0, 1], shared: 0 }];
        let step = DeviceStep { ids: &[7; CHUNK], fed: &[], rows: &rows, logit_rows: &[], draws: &[] };
        decoder.begin_step(&step, &mut cache, &mut graphs).unwrap();
        if number > 0 {
            assert!(graphs.finish().unwrap().is_empty());
        }
    }
    assert_eq!(graphs.counts(), StepCounts { begun: 4, replayed: 0, ahead: 3, waits: 3 });
    assert!(graphs.finish().unwrap().is_empty());
    assert_eq!(late.counts().waits, 4);
}

/// Two thousand rows, kernel by kernel and captured: what some of them draw alone.
#[test]
fn thousands_of_rows_are_captured_and_know_nothing_of_each_other() {
    const ROWS: usize = 2000;
    let keys = json!({"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1});
    let decoder = decoder(keys);
    let Some(_gpu) = Emulator::start() else { return };
    let run = |rows: &[usize]| -> Vec<Vec<Option<Drawn>>> {
        let mut cache = KvCache::new(decoder.architecture(), ROWS, DType::F32, &Device::Cpu).unwrap();
        let mut graphs = DecodeGraphs::default();
        let pages: Vec<[u32; 1]> = rows.iter().map(|&row| [row as u32]).collect();
        let mut ids: Vec<u32> = rows.iter().map(|row| (row % VOCAB) as u32).collect();
        let steps = (0..2).map(|context| {
            let paged: Vec<PagedRow> =
                pages.iter().map(|pages| PagedRow { new_tokens: 1, context, pages, shared: 0 }).collect();
            let draws: Vec<RowDraw> =
                rows.iter().enumerate().map(|(place, &row)| row_draw(place, row, context)).collect();
            let drawn = decoder.decode_and_draw(&ids, &paged, &draws, &mut cache, &mut graphs).unwrap();
            ids = drawn.iter().map(|drawn| drawn.unwrap().id).collect();
            drawn
        });
        let drawn = steps.collect();
        assert_eq!(graphs.counts(), StepCounts { begun: 2, replayed: 1, ahead: 0, waits: 2 });
        drawn
    };
    let all = run(&(0..ROWS).collect::<Vec<_>>());
    let some = [0, 7, 1023, 1024, ROWS - 1];
    for (step, alone) in run(&some).into_iter().enumerate() {
        assert_eq!(alone, some.map(|row| all[step][row]), "step {step}");
    }
    let distinct: std::collections::BTreeSet<u32> = all[1].iter().map(|drawn| drawn.unwrap().id).collect();
    assert!(distinct.len() > VOCAB / 2);
}
