//! Qwen3 against transformers: log-probs, greedy continuations and gradients of two tiny models.
//!
//! The models and what transformers computes with them lie in `tests/parity/golden/qwen3`; the script that made them,
//! `tests/parity/reference/qwen3.py`, says what is in each file. Nothing here needs Python.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use selfplay_model::cpu::storage::with_slice;
use selfplay_model::{
    Architecture, Decoder, Gradients, KvCache, LoadOptions, PAGE_TOKENS, PackedBatch, PagedRow,
};
use serde::Deserialize;

const MODELS: [&str; 2] = ["published", "tied"];

/// Nats. Both sides compute in f32 and sum in other orders.
const LOG_PROB_TOLERANCE: f32 = 1e-4;
/// Of a gradient's norm.
const GRADIENT_TOLERANCE: f64 = 2e-3;

#[derive(Deserialize)]
struct Golden {
    loss: f64,
    rows: Vec<Row>,
    greedy: Vec<Continuation>,
    gradient_norms: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
struct Row {
    prompt: Vec<u32>,
    response: Vec<u32>,
    coefficient: f32,
    log_probs: Vec<f32>,
}

#[derive(Deserialize)]
struct Continuation {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    margins: Vec<f32>,
    log_probs: Vec<f32>,
}

/// All rows in one batch, and which hidden states predict which tokens.
struct Predictions {
    batch: PackedBatch,
    rows: Vec<usize>,
    targets: Vec<u32>,
    /// One for each prediction: its row's.
    coefficients: Vec<f32>,
}

impl Predictions {
    /// Each row a sequence of its own.
    fn apart(rows: &[Row]) -> Self {
        let mut out = Self::empty();
        for row in rows {
            let segment = out.batch.push(&[row.prompt.as_slice(), &row.response].concat());
            let first = out.batch.rows(segment).start + row.prompt.len() - 1;
            out.add(row, first..first + row.response.len());
        }
        out
    }

    /// Each distinct prompt once, its responses after it.
    fn with_shared_prompts(rows: &[Row]) -> Self {
        let mut out = Self::empty();
        let mut prompts: Vec<(&[u32], usize)> = Vec::new();
        for row in rows {
            let known = prompts.iter().find(|(prompt, _)| *prompt == row.prompt).map(|(_, segment)| *segment);
            let prompt = known.unwrap_or_else(|| {
                let segment = out.batch.push(&row.prompt);
                prompts.push((&row.prompt, segment));
                segment
            });
            let last = out.batch.rows(prompt).end - 1;
            let response = out.batch.push_after(prompt, &row.response);
            let response = out.batch.rows(response);
            out.add(row, std::iter::once(last).chain(response.start..response.end - 1));
        }
        out
    }

    fn empty() -> Self {
        Self { batch: PackedBatch::new(), rows: Vec::new(), targets: Vec::new(), coefficients: Vec::new() }
    }

    fn add(&mut self, row: &Row, at: impl Iterator<Item = usize>) {
        self.rows.extend(at);
        self.targets.extend_from_slice(&row.response);
        self.coefficients.resize(self.targets.len(), row.coefficient);
    }
}

fn folder(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/parity/golden/qwen3").join(model)
}

fn golden(model: &str) -> Golden {
    serde_json::from_slice(&std::fs::read(folder(model).join("golden.json")).unwrap()).unwrap()
}

fn decoder(model: &str) -> Decoder {
    Decoder::load(&folder(model), &LoadOptions::default()).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    with_slice::<f32, _>(tensor, |x| x.iter().map(|&x| f64::from(x)).collect()).unwrap()
}

fn norm(numbers: impl IntoIterator<Item = f64>) -> f64 {
    numbers.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn both_forms_of_the_configuration_mean_the_same() {
    for model in MODELS {
        let path = folder(model).join("config_v4.json");
        let old = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let old = Architecture::from_json(&old, &path).unwrap();
        let new = Architecture::load(&folder(model)).unwrap();
        assert_eq!(old, new, "{model}");
        assert_ne!(new.head_dim * new.num_heads, new.hidden_size, "{model}");
        let windows = if model == "tied" { vec![None, Some(7), Some(7)] } else { vec![None; 3] };
        assert_eq!(new.windows, windows, "{model}");
    }
}

#[test]
fn every_tensor_is_read_as_stored() {
    for model in MODELS {
        let decoder = decoder(model);
        assert_eq!((decoder.stored_dtype(), decoder.dtype()), (DType::BF16, DType::F32), "{model}");
        let stored =
            candle_core::safetensors::load(folder(model).join("model.safetensors"), &Device::Cpu).unwrap();
        assert_eq!(decoder.parameters().len(), stored.len(), "{model}");
        for (_, parameter) in decoder.parameters().iter() {
            let want = stored[&parameter.name].to_dtype(DType::F32).unwrap();
            assert_eq!(numbers(&parameter.value), numbers(&want), "{model} {}", parameter.name);
        }
    }
}

#[test]
fn log_probs_are_those_of_transformers() {
    for model in MODELS {
        let (decoder, golden) = (decoder(model), golden(model));
        let want: Vec<f32> = golden.rows.iter().flat_map(|row| row.log_probs.clone()).collect();
        for (layout, predictions) in [
            ("apart", Predictions::apart(&golden.rows)),
            ("shared prompts", Predictions::with_shared_prompts(&golden.rows)),
        ] {
            let hidden = decoder.hidden(&predictions.batch).unwrap();
            let got = decoder.token_log_probs(&hidden, &predictions.rows, &predictions.targets).unwrap();
            assert_eq!(got.len(), want.len());
            let worst = got.iter().zip(&want).fold(0.0f32, |worst, (a, b)| worst.max((a - b).abs()));
            println!("{model}, {layout}: log-probs differ by at most {worst:.1e}");
            assert!(worst <= LOG_PROB_TOLERANCE, "{model}, {layout}: {worst}");
            let loss: f64 = got.iter().zip(&predictions.coefficients).map(|(x, c)| f64::from(x * c)).sum();
            assert!(
                (loss - golden.loss).abs() <= 1e-5 * golden.loss.abs(),
                "{model}: {loss} but {}",
                golden.loss
            );
        }
    }
}

/// All continuations together, one token each a step, over pages that lie crosswise.
#[test]
fn greedy_continuations_are_those_of_transformers() {
    for model in MODELS {
        let (mut decoder, golden) = (decoder(model), golden(model));
        decoder.prepare_inference().unwrap();
        let n = golden.greedy.len();
        let pages_of = |i: usize| -> Vec<u32> {
            let length = golden.greedy[i].prompt.len() + golden.greedy[i].ids.len();
            (0..length.div_ceil(PAGE_TOKENS)).map(|page| (page * n + i) as u32).collect()
        };
        let pages: Vec<Vec<u32>> = (0..n).map(pages_of).collect();
        let count = pages.iter().flatten().max().map_or(0, |last| *last as usize + 1);
        let mut cache = KvCache::new(decoder.architecture(), count, DType::F32, &Device::Cpu).unwrap();
        let mut next: Vec<Vec<u32>> = golden.greedy.iter().map(|c| c.prompt.clone()).collect();
        let mut cached = vec![0; n];
        let mut worst = 0.0f32;
        for step in 0..golden.greedy[0].ids.len() {
            let rows: Vec<PagedRow> = (0..n)
                .map(|i| PagedRow {
                    new_tokens: next[i].len(),
                    context: cached[i],
                    pages: &pages[i],
                    shared: 0,
                })
                .collect();
            let ids = next.concat();
            let all: Vec<usize> = (0..ids.len()).collect();
            let hidden = decoder.forward_paged(&ids, &rows, &all, &mut cache).unwrap();
            let mut end = 0;
            for (i, continuation) in golden.greedy.iter().enumerate() {
                end += next[i].len();
                cached[i] += next[i].len();
                let logits = numbers(&decoder.logits(&hidden.narrow(0, end - 1, 1).unwrap()).unwrap());
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                let margin = continuation.margins[step];
                assert_eq!(
                    best as u32, continuation.ids[step],
                    "{model}: token {step} of continuation {i}, whose lead is {margin}"
                );
                let log_prob = -logits.iter().map(|x| (x - logits[best]).exp()).sum::<f64>().ln();
                worst = worst.max((log_prob as f32 - continuation.log_probs[step]).abs());
                next[i] = vec![best as u32];
            }
        }
        println!("{model}: {n} greedy continuations equal; log-probs differ by at most {worst:.1e}");
        assert!(worst <= LOG_PROB_TOLERANCE, "{model}: {worst}");
    }
}

#[test]
fn gradients_are_those_of_transformers() {
    for model in MODELS {
        let (decoder, golden) = (decoder(model), golden(model));
        let whole = candle_core::safetensors::load(folder(model).join("gradients.safetensors"), &Device::Cpu)
            .unwrap();
        for (layout, predictions) in [
            ("apart", Predictions::apart(&golden.rows)),
            ("shared prompts", Predictions::with_shared_prompts(&golden.rows)),
        ] {
            let gradients = gradients(&decoder, &predictions);
            let (mut worst_norm, mut worst_whole) = (0.0f64, 0.0f64);
            assert_eq!(decoder.parameters().len(), golden.gradient_norms.len(), "{model}");
            for (id, parameter) in decoder.parameters().iter() {
                let got = numbers(gradients.get(id).unwrap());
                let want = golden.gradient_norms[&parameter.name];
                let off = (norm(got.iter().copied()) - want).abs() / want;
                assert!(
                    off <= GRADIENT_TOLERANCE,
                    "{model}, {layout}, norm of {}: {off} away",
                    parameter.name
                );
                worst_norm = worst_norm.max(off);
                let Some(want) = whole.get(&parameter.name).map(numbers) else { continue };
                assert_eq!(got.len(), want.len(), "{model} {}", parameter.name);
                let off = norm(got.iter().zip(&want).map(|(a, b)| a - b)) / norm(want.iter().copied());
                assert!(off <= GRADIENT_TOLERANCE, "{model}, {layout}, {}: {off} away", parameter.name);
                worst_whole = worst_whole.max(off);
            }
            println!(
                "{model}, {layout}: gradient norms within {worst_norm:.1e}, whole ones within {worst_whole:.1e}"
            );
        }
        assert_eq!(whole.len(), 5, "{model}");
        assert!(whole.keys().all(|name| decoder.parameters().find(name).is_some()), "{model}");
    }
}

fn gradients(decoder: &Decoder, predictions: &Predictions) -> Gradients {
    let Predictions { batch, rows, targets, coefficients } = predictions;
    let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
    let tape = decoder.forward_train(batch, selfplay_model::decoder::KeepPlan::ALL).unwrap();
    let d_hidden =
        decoder.token_log_probs_backward(tape.hidden(), rows, targets, coefficients, &mut gradients).unwrap();
    decoder.backward(tape, &d_hidden, &mut gradients).unwrap();
    gradients
}
