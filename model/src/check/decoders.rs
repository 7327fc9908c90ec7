//! Whole decoders on a GPU against the CPU in f32, and against themselves.

use candle_core::{DType, Device, Result, Tensor};
use serde_json::{Value, json};

use super::{CheckTarget, Deviation, distance, exact, noise};
use crate::architecture::{Architecture, Family};
use crate::batch::PackedBatch;
use crate::decoder::{DecodeGraphs, Decoder, DeviceStep, FedToken, KeepPlan, LoadOptions};
use crate::gradients::Gradients;
use crate::kv_cache::{KvCache, PageCopy, PagedRow};
use crate::kv_format::KvFormat;
use crate::ops::draw::{DrawRule, Drawn, RowDraw};

pub(super) const VOCAB: u32 = 48;

/// A small model of the family: grouped queries, a window shorter than the sequences, every bias that it may have.
fn config(family: &Family) -> Value {
    let mut config = json!({
        "model_type": family.model_type(), "vocab_size": VOCAB, "hidden_size": 40, "intermediate_size": 56,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    let more = family.exercise(21);
    if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
        config.extend(more.clone());
    }
    config
}

/// A prompt with two responses, a longer sequence of its own, and a short one; some rows with their targets.
fn work() -> (PackedBatch, Vec<usize>, Vec<u32>) {
    let ids =
        |from: u32, count: u32| (from..from + count).map(|i| (i * 17 + 3) % VOCAB).collect::<Vec<u32>>();
    let mut batch = PackedBatch::new();
    let prompt = batch.push(&ids(0, 19));
    batch.push_after(prompt, &ids(20, 33));
    batch.push_after(prompt, &ids(31, 4));
    batch.push(&ids(40, 75));
    batch.push(&ids(60, 1));
    let rows: Vec<usize> = (3..batch.tokens()).step_by(2).chain([18, 18]).collect();
    let targets = rows.iter().map(|&row| (row as u32 * 5 + 1) % VOCAB).collect();
    (batch, rows, targets)
}

/// What a decoder gives, by name: log-probs, logits, paged steps, and the gradient of every parameter.
fn results(decoder: &Decoder) -> Result<Vec<(String, Tensor)>> {
    let (batch, rows, targets) = work();
    let hidden = decoder.hidden(&batch)?;
    let log_probs = decoder.token_log_probs(&hidden, &rows, &targets)?;
    let logits = decoder.logits(&decoder.hidden_rows(&batch, &rows)?)?;
    let mut all = vec![
        ("log-probs".to_owned(), Tensor::new(log_probs.as_slice(), &Device::Cpu)?),
        ("logits".to_owned(), logits),
        ("paged steps".to_owned(), paged(decoder)?),
    ];
    let mut gradients = Gradients::zeros(decoder.parameters())?;
    let tape = decoder.forward_train(&batch, KeepPlan::LEAST)?;
    let d: Vec<f32> = (0..rows.len()).map(|i| ((i * 7 + 2) % 11) as f32 / 5.0 - 0.9).collect();
    let d_hidden = decoder.token_log_probs_backward(tape.hidden(), &rows, &targets, &d, &mut gradients)?;
    decoder.backward(tape, &d_hidden, &mut gradients)?;
    for (id, gradient) in gradients.iter() {
        all.push((format!("gradient of {}", decoder.parameters().get(id).name), gradient.clone()));
    }
    Ok(all)
}

/// Hidden states of one sequence in uneven steps over scattered pages.
fn paged(decoder: &Decoder) -> Result<Tensor> {
    let ids: Vec<u32> = (0..41).map(|i| (i * 17 + 3) % VOCAB).collect();
    let mut cache = KvCache::new(decoder.architecture(), 12, decoder.dtype(), decoder.device())?;
    let pages = [7, 2, 9];
    let mut steps = Vec::new();
    for (from, to) in [(0, 5), (5, 17), (17, 33), (33, 40), (40, 41)] {
        let row = PagedRow { new_tokens: to - from, context: from, pages: &pages, shared: 0 };
        let wanted: Vec<usize> = (0..to - from).collect();
        steps.push(decoder.forward_paged(&ids[from..to], &[row], &wanted, &mut cache)?);
    }
    Tensor::cat(&steps, 0)
}

/// Captured steps of one family against steps kernel by kernel, in both dtypes; `ahead` of their tokens or not.
///
/// # Errors
/// As [`compare_steps`].
pub fn compare_captured(target: &CheckTarget, seed: u64, ahead: bool) -> Result<Vec<Deviation>> {
    [DType::F32, DType::BF16]
        .into_iter()
        .map(|dtype| {
            let (_, decoder) = decoders(target, Family::ALL[0], dtype, seed)?;
            let distance = target.run(|| captured_apart(&decoder, ahead))?;
            Ok(exact(if ahead { "steps begun ahead" } else { "captured steps" }, dtype, distance))
        })
        .collect()
}

/// The same decoder on the CPU in f32 and on the target in `dtype`, whose rounding both have.
pub(super) fn decoders(
    target: &CheckTarget,
    family: &'static Family,
    dtype: DType,
    seed: u64,
) -> Result<(Decoder, Decoder)> {
    let fault = |error: crate::ModelError| candle_core::Error::Msg(error.to_string());
    let architecture = Architecture::from_json(&config(family), "config.json".as_ref()).map_err(fault)?;
    let options = LoadOptions::default();
    let cpu = Decoder::random(architecture.clone(), seed, &options).map_err(fault)?;
    let options = LoadOptions { device: target.device().clone(), dtype: Some(dtype), ..options };
    let on_target = target.run(|| Decoder::random(architecture.clone(), seed, &options)).map_err(fault)?;
    for (i, (id, parameter)) in cpu.parameters().iter().enumerate() {
        // Fresh weights are small and biases 0: larger ones, but not so large that bf16 decides the scores.
        let fresh = noise(parameter.value.dims(), seed + i as u64)?;
        let value = ((&parameter.value * 2.0)? + (fresh * 0.05)?)?.to_dtype(dtype)?;
        let there = &on_target.parameters().get(id).value;
        there.slice_set(&value.to_device(target.device())?, 0, 0)?;
        // The CPU computes on the rounded weights.
        parameter.value.slice_set(&value.to_dtype(DType::F32)?.copy()?, 0, 0)?;
    }
    Ok((cpu, on_target))
}

/// Compares a decoder of every family in both dtypes; `seed` draws the weights.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_decoders(target: &CheckTarget, seed: u64) -> Result<Vec<Deviation>> {
    compare_families(target, seed, Family::ALL)
}

/// As [`compare_decoders`], of one family.
///
/// # Errors
/// As [`compare_decoders`].
pub fn compare_gradients(target: &CheckTarget, seed: u64) -> Result<Vec<Deviation>> {
    compare_families(target, seed, &Family::ALL[..1])
}

fn compare_families(target: &CheckTarget, seed: u64, families: &[&'static Family]) -> Result<Vec<Deviation>> {
    let mut found = Vec::new();
    for &family in families {
        for dtype in [DType::F32, DType::BF16] {
            let (cpu, on_target) = decoders(target, family, dtype, seed)?;
            let want = results(&cpu)?;
            let got = target.run(|| results(&on_target))?;
            for ((name, got), (_, want)) in got.iter().zip(&want) {
                let is_gradient = name.starts_with("gradient");
                found.push(Deviation {
                    name: format!("{}: {name}", family.model_type()),
                    dtype,
                    distance: distance(got, want)?,
                    bound: match (dtype, is_gradient) {
                        (DType::F32, false) => 1e-5,
                        (DType::F32, true) => 1e-3,
                        // Every activation is rounded, three layers deep, forward and backward; a key's bias, whose
                        // gradient is 0 but for rounding and rope, has no digits left.
                        (_, false) => 3e-2,
                        (_, true) if name.contains("k_proj.bias") => 1.0,
                        // Each of their numbers is a sum over few terms that nearly cancel: rounding alone takes the emulator, whose
                        // kernels agree within 7e-6 in f32, 0.03 to 0.18 away (heads) and 0.04 to 0.19 (over all heads) by seed.
                        (_, true) if name.contains("q_norm") || name.contains("k_norm") => 2.5e-1,
                        (_, true) => 1e-1,
                    },
                });
            }
        }
    }
    Ok(found)
}

/// Compares steps of the target with other steps of the target, of every family in both dtypes: a token has the same bits
/// whatever is beside it and however it came into the cache, and a captured step is the step.
///
/// # Errors
/// An operation that fails; a difference is no error.
pub fn compare_steps(target: &CheckTarget, seed: u64) -> Result<Vec<Deviation>> {
    let mut found = Vec::new();
    for &family in Family::ALL {
        for dtype in [DType::F32, DType::BF16] {
            let (_, mut decoder) = decoders(target, family, dtype, seed)?;
            let mut report = |what: &str, distance: f64| {
                let name = format!("{}: {what}", family.model_type());
                found.push(Deviation { name, dtype, distance, bound: 0.0 });
            };
            report("captured steps", target.run(|| captured_apart(&decoder, false))?);
            report("steps begun ahead", target.run(|| captured_apart(&decoder, true))?);
            decoder.set_batch_invariant(true);
            report("the same bits in any step", target.run(|| steps_apart(&decoder, dtype.into()))?);
            // The kernels that a GPU computes with; those of f32 are for the comparison of operations.
            if dtype == DType::BF16 {
                let apart = target.run(|| steps_apart(&decoder, KvFormat::Fp8))?;
                report("the same bits in any step, keys and values in FP8", apart);
            }
        }
    }
    Ok(found)
}

/// A prompt of 37 tokens, of which two pages are shared, and 15 of a response.
const PROMPT: usize = 37;
const SHARED: usize = 32;

/// How far a sequence's hidden states are from those in other chunks, and from those beside others.
fn steps_apart(decoder: &Decoder, format: KvFormat) -> Result<f64> {
    let ids: Vec<u32> = (0..52).map(|i| (i * 17 + 3) % VOCAB).collect();
    let fresh = || KvCache::new(decoder.architecture(), 12, format, decoder.device());
    let run = |cache: &mut KvCache, pages: &[u32], from: usize, to: usize| {
        let row = PagedRow { new_tokens: to - from, context: from, pages, shared: SHARED };
        let wanted: Vec<usize> = (0..to - from).collect();
        decoder.forward_paged(&ids[from..to], &[row], &wanted, cache)
    };
    let pages = [7, 2, 9, 4];
    let mut cache = fresh()?;
    let mut one_by_one = vec![run(&mut cache, &pages, 0, PROMPT)?];
    for token in PROMPT..ids.len() {
        one_by_one.push(run(&mut cache, &pages, token, token + 1)?);
    }
    let want = Tensor::cat(&one_by_one, 0)?;
    let mut cache = fresh()?;
    let chunks = [(0, 3), (3, 20), (20, 36), (36, 45), (45, 52)]
        .map(|(from, to)| run(&mut cache, &pages, from, to))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let in_chunks = distance(&Tensor::cat(&chunks, 0)?, &want)?;

    // The last token again, between two others of its prompt, one of them far behind.
    let last = ids.len() - 1;
    cache.copy_pages(&[PageCopy { from: 4, to: 5 }, PageCopy { from: 9, to: 1 }])?;
    let (twin, behind) = ([7, 2, 9, 5], [7, 2, 1]);
    let row = |context, pages| PagedRow { new_tokens: 1, context, pages, shared: SHARED };
    let rows = [row(PROMPT, &behind[..]), row(last, &pages), row(last, &twin)];
    let step = [ids[PROMPT], ids[last], ids[last]];
    let got = decoder.forward_paged(&step, &rows, &[0, 1, 2], &mut cache)?;
    let of = |token| want.narrow(0, token, 1);
    let beside = distance(&got, &Tensor::cat(&[of(PROMPT)?, of(last)?, of(last)?], 0)?)?;
    Ok(in_chunks.max(beside))
}

/// How many tokens and log-probs of captured steps, `ahead` of their tokens or not, differ from those of steps kernel by kernel,
/// while rows come, go and grow; infinite where nothing was captured.
fn captured_apart(decoder: &Decoder, ahead: bool) -> Result<f64> {
    let plain = DrawRule { temperature: 1.0, inverse: 1.0, top_k: 0, top_p: 0.9, min_p: 0.0 };
    // Rows of different rules share a step, and a row's rule is another in every step.
    let rules = [
        plain,
        DrawRule { temperature: 0.0, ..plain },
        DrawRule { temperature: 0.5, inverse: 2.0, top_k: 5, ..plain },
        DrawRule { top_p: 1.0, min_p: 0.3, ..plain },
        DrawRule { top_p: 1.0, ..plain },
    ];
    let run = |graphs: &mut DecodeGraphs, ahead: bool| -> Result<Vec<(u32, u32)>> {
        let mut cache = KvCache::new(decoder.architecture(), 40, decoder.dtype(), decoder.device())?;
        let tables: Vec<Vec<u32>> = (0..4).map(|row| vec![20, 21, row * 4, row * 4 + 1]).collect();
        let prompt: Vec<u32> = (0..32).map(|i| (i * 5 + 1) % VOCAB).collect();
        let row = |new_tokens, context, row: usize| PagedRow {
            new_tokens,
            context,
            pages: &tables[row],
            shared: SHARED,
        };
        decoder.forward_paged(&prompt, &[row(32, 0, 0)], &[31], &mut cache)?;
        let (mut last, mut contexts, mut all) = ([3u32, 9, 12, 30], [32usize; 4], Vec::new());
        // Other rows, at other positions, on other pages.
        let steps = [
            &[0, 1][..],
            &[0, 1],
            &[0, 1],
            &[0, 1, 2, 3],
            &[0, 1, 2, 3],
            &[0, 2, 3],
            &[2, 3],
            &[1, 3],
            &[0, 1, 2, 3],
        ];
        let mut read = |drawn: Vec<Option<Drawn>>, running: &[usize], last: &mut [u32; 4]| {
            for (&r, drawn) in running.iter().zip(drawn) {
                let Some(drawn) = drawn else { candle_core::bail!("logits that are not finite") };
                all.push((drawn.id, drawn.logprob.to_bits()));
                last[r] = drawn.id;
            }
            Ok(())
        };
        let mut before: &[usize] = &[];
        for (step, running) in steps.into_iter().enumerate() {
            let drawn_before = |r: usize| before.iter().position(|&other| ahead && other == r);
            let fed = |(place, &r): (usize, &usize)| Some(FedToken { place, draw: drawn_before(r)? });
            let fed: Vec<FedToken> = running.iter().enumerate().filter_map(fed).collect();
            let mut ids: Vec<u32> = running.iter().map(|&r| last[r]).collect();
            fed.iter().for_each(|fed| ids[fed.place] = FedToken::UNKNOWN);
            let rows: Vec<PagedRow> = running.iter().map(|&r| row(1, contexts[r], r)).collect();
            let draws: Vec<RowDraw> = (0..running.len() as u32)
                .map(|row| RowDraw {
                    row,
                    step: step as u32,
                    sample: row,
                    tag: [1, 2],
                    key: [3, 4],
                    rule: rules[(step + row as usize) % rules.len()],
                })
                .collect();
            let logit_rows: Vec<usize> = (0..running.len()).collect();
            let begun =
                DeviceStep { ids: &ids, fed: &fed, rows: &rows, logit_rows: &logit_rows, draws: &draws };
            decoder.begin_step(&begun, &mut cache, graphs)?;
            running.iter().for_each(|&r| contexts[r] += 1);
            match ahead {
                true if step == 0 => {}
                true => read(graphs.finish()?, before, &mut last)?,
                false => read(graphs.finish()?, running, &mut last)?,
            }
            before = running;
        }
        if ahead {
            read(graphs.finish()?, before, &mut last)?;
        }
        Ok(all)
    };
    let mut graphs = DecodeGraphs::default();
    let (got, want) = (run(&mut graphs, ahead)?, run(&mut DecodeGraphs::off(), false)?);
    if graphs.captured() < 2 || graphs.replayed() < 4 {
        return Ok(f64::INFINITY);
    }
    Ok(got.iter().zip(&want).filter(|(got, want)| got != want).count() as f64)
}
