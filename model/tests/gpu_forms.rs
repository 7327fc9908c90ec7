//! The GPU forms of all operations against the CPU's, without a GPU: the very kernels, launches and arguments, run thread by
//! thread by an emulator. On a GPU, `benches/gpu.sh` makes the same comparisons at full size.

mod gpu_steps;
mod hopper_trial;

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use selfplay_model::adapter::{AdapterConfig, AdapterStart};
use selfplay_model::check::{
    self, CheckTarget, InputSize, compare_decoders, compare_hopper, compare_steps, noise,
};
use selfplay_model::cpu::storage::with_slice_mut;
use selfplay_model::decoder::{DecodeGraphs, DeviceStep, KeepPlan};
use selfplay_model::gpu::{HopperKernels, start_profile};
use selfplay_model::ops::draw::{DrawRule, RowDraw, draw};
use selfplay_model::ops::elementwise::scale_assign;
use selfplay_model::{
    Decoder, Gradients, KvCache, LoadOptions, PAGE_TOKENS, PackedBatch, PageCopy, PagedRow, PreferenceHeads,
};
use selfplay_testing::Emulator;
use selfplay_testing::decoder::{config, decoder_in};
use selfplay_testing::families::{self, FAMILIES, decoder, gradients, numbers};

/// The same numbers in another dtype, in memory of its own.
fn cast(tensor: &Tensor, dtype: DType) -> Tensor {
    tensor.to_dtype(dtype).unwrap().copy().unwrap()
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    numbers(&cast(tensor, DType::F64))
}

#[track_caller]
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    check::distance(got, want).unwrap()
}

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

#[test]
fn every_operation() {
    let Some(emulator) = Emulator::build() else { return };
    let target = CheckTarget::Emulator(Arc::new(emulator));
    for seed in [1, 2] {
        let found = check::compare_all(&target, InputSize::Small, seed).unwrap();
        assert!(found.len() > 150, "{}", found.len());
        for comparison in &found {
            assert!(comparison.is_ok(), "seed {seed}: {comparison:?}");
        }
    }
}

/// Those that are for compute capability 9.0 alone: asynchronous copies and products, as strictly as the emulator has them.
#[test]
fn kernels_for_hopper() {
    let Some(emulator) = Emulator::build() else { return };
    let target = CheckTarget::Emulator(Arc::new(emulator));
    let found = compare_hopper(&target, InputSize::Small, 1).unwrap();
    assert!(found.len() > 35, "{}", found.len());
    for comparison in &found {
        assert!(comparison.is_ok(), "{comparison:?}");
    }
}

/// The names of the kernels with "attention" in them that `work` launches.
fn attention_kernels(work: impl FnOnce()) -> Vec<String> {
    let recording = start_profile(&Device::Cpu).unwrap();
    work();
    let rows = recording.finish().unwrap().rows;
    let names: BTreeSet<String> = rows.into_iter().flat_map(|row| row.kernels.into_keys()).collect();
    names.into_iter().filter(|name| name.contains("attention")).collect()
}

/// Log-probs under a policy, scores (rows of the last block alone) and a training step go through the same attention, that for Hopper
/// where it is chosen, and have the same hidden states.
#[test]
fn every_pass_over_a_packed_batch_takes_the_same_kernels() {
    let Some(_gpu) = Emulator::start() else { return };
    let keys = serde_json::json!({"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1});
    let decoder = decoder_in(&config(keys), 3, DType::BF16);
    let mut batch = PackedBatch::new();
    let prompt = batch.push(&[5, 6, 7, 8, 9]);
    batch.push_after(prompt, &[10, 11, 12]);
    batch.push_after(prompt, &[13, 14]);
    let rows = [4, 6, 9];
    for (chosen, forward, backward) in [
        (HopperKernels::ALL, "hopper_attention_forward_64", "hopper_attention_backward_64"),
        (HopperKernels::NONE, "attention_forward_bf16_64", "attention_backward_keys_values_bf16_64"),
    ] {
        chosen.run(|| {
            let mut hidden = Vec::new();
            let kept = |keep| decoder.forward_train(&batch, keep).unwrap();
            let mut of = |work: &dyn Fn() -> Tensor| {
                assert_eq!(attention_kernels(|| hidden.push(wide(&work()))), [forward]);
            };
            of(&|| kept(KeepPlan::LEAST).hidden().clone());
            of(&|| kept(KeepPlan::ALL).hidden().clone());
            of(&|| decoder.hidden(&batch).unwrap());
            of(&|| decoder.hidden_rows(&batch, &rows).unwrap());
            assert!(hidden[0] == hidden[1] && hidden[0] == hidden[2], "{chosen:?}");
            for (some, &row) in hidden[3].chunks(128).zip(&rows) {
                assert_eq!(some, &hidden[0][128 * row..][..128], "{chosen:?}");
            }
            let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
            let all = attention_kernels(|| {
                let tape = kept(KeepPlan::LEAST);
                let d_hidden = tape.hidden().clone();
                decoder.backward(tape, &d_hidden, &mut gradients).unwrap();
            });
            assert!(all.iter().any(|name| name == backward), "{all:?}");
            let mut others =
                all.iter().filter(|name| name.contains("hopper") != (chosen == HopperKernels::ALL));
            assert!(others.all(|name| name.starts_with("attention_delta")), "{all:?}");
        });
    }
}

#[test]
fn fresh_weights_are_the_cpus() {
    let make = || decoder_of_fresh_weights("llama");
    let want = make();
    let Some(_gpu) = Emulator::start() else { return };
    let got = make();
    for (id, parameter) in got.parameters().iter() {
        let distance = distance(&parameter.value, &want.parameters().get(id).value);
        assert!(distance < 1e-7, "{}: {distance:e}", parameter.name);
    }
}

fn decoder_of_fresh_weights(family: &str) -> Decoder {
    let architecture = decoder(family, DType::F32).architecture().clone();
    Decoder::random(architecture, 11, &LoadOptions::default()).unwrap()
}

/// A decoder like `like` in another dtype, its weights rounded to it.
fn twin(like: &Decoder, dtype: DType) -> Decoder {
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), ..LoadOptions::default() };
    let decoder = Decoder::random(like.architecture().clone(), 7, &options).unwrap();
    for (id, parameter) in decoder.parameters().iter() {
        let value = like.parameters().get(id).value.to_dtype(dtype).unwrap();
        parameter.value.slice_set(&value.copy().unwrap(), 0, 0).unwrap();
    }
    decoder
}

#[test]
fn decoders_of_every_family() {
    let Some(emulator) = Emulator::build() else { return };
    let found = compare_decoders(&CheckTarget::Emulator(Arc::new(emulator)), 1).unwrap();
    // Every family, two dtypes, three results and every parameter.
    assert!(found.len() > FAMILIES.len() * 2 * 20, "{}", found.len());
    let wrong: Vec<_> = found.iter().filter(|comparison| !comparison.is_ok()).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn recomputation_gives_the_same_bits() {
    let Some(_gpu) = Emulator::start() else { return };
    for family in FAMILIES {
        for dtype in DTYPES {
            let decoder = twin(&decoder(family, DType::F32), dtype);
            let kept = gradients(&decoder, KeepPlan::ALL);
            for plan in [KeepPlan::LEAST, KeepPlan::new(1, 1)] {
                let recomputed = gradients(&decoder, plan);
                for (id, gradient) in kept.iter() {
                    assert_eq!(
                        wide(gradient),
                        wide(recomputed.get(id).unwrap()),
                        "{family} {dtype:?} {plan:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn paged_steps_give_what_the_packed_forward_gives() {
    let Some(_gpu) = Emulator::start() else { return };
    for family in FAMILIES {
        for dtype in DTYPES {
            let decoder = twin(&decoder(family, DType::F32), dtype);
            let ids: Vec<u32> = (0..41).map(|i| (i * 17 + 3) % 40).collect();
            let mut batch = PackedBatch::new();
            batch.push(&ids);
            let want = decoder.hidden(&batch).unwrap();
            let mut cache = KvCache::new(decoder.architecture(), 12, dtype, &Device::Cpu).unwrap();
            // One row in uneven pieces beside another that goes on from a copy of its first pages.
            let (mut pages, twin_pages) = (vec![7, 2, 9], [7, 2, 4]);
            let mut got = Vec::new();
            for (from, to) in [(0, 5), (5, 17), (17, 33), (33, 40)] {
                let row = PagedRow { new_tokens: to - from, context: from, pages: &pages, shared: 0 };
                let wanted: Vec<usize> = (0..to - from).collect();
                got.push(decoder.forward_paged(&ids[from..to], &[row], &wanted, &mut cache).unwrap());
            }
            cache.copy_pages(&[PageCopy { from: 9, to: 4 }]).unwrap();
            assert_eq!(PAGE_TOKENS, 16);
            pages.push(11);
            let rows = [
                PagedRow { new_tokens: 1, context: 40, pages: &pages, shared: 0 },
                PagedRow { new_tokens: 1, context: 40, pages: &twin_pages, shared: 0 },
            ];
            let last = decoder.forward_paged(&[ids[40], ids[40]], &rows, &[0, 1], &mut cache).unwrap();
            assert_eq!(
                wide(&last.narrow(0, 0, 1).unwrap()),
                wide(&last.narrow(0, 1, 1).unwrap()),
                "{family}"
            );
            got.push(last.narrow(0, 0, 1).unwrap());
            let got = Tensor::cat(&got, 0).unwrap();
            let bound = if dtype == DType::F32 { 1e-5 } else { 3e-2 };
            let distance = distance(&got, &want);
            assert!(distance <= bound, "{family} {dtype:?}: {distance:e}");
        }
    }
}

/// Prefill in any chunks, decoding alone or beside others, prefill of what was once decoded, captured or not: the same bits.
#[test]
fn a_token_does_not_depend_on_its_step() {
    let Some(emulator) = Emulator::build() else { return };
    let found = compare_steps(&CheckTarget::Emulator(Arc::new(emulator)), 1).unwrap();
    // Three ways in two dtypes; keys and values in FP8 in one.
    assert_eq!(found.len(), FAMILIES.len() * (2 * 3 + 1));
    for comparison in &found {
        assert!(comparison.is_ok(), "{comparison:?}");
    }
}

/// As many draws as rows of one token each, and yet not one for each: a candidate that is resumed draws nothing, a prompt of one
/// token has two candidates. It is no decode step.
#[test]
fn single_tokens_are_drawn_from_the_rows_that_are_wanted() {
    let Some(_gpu) = Emulator::start() else { return };
    let decoder = decoder("llama", DType::F32);
    let cache = || KvCache::new(decoder.architecture(), 4, DType::F32, &Device::Cpu).unwrap();
    let pages = [[0u32], [1], [2]];
    let rows = [0, 1, 2].map(|row| PagedRow { new_tokens: 1, context: 0, pages: &pages[row], shared: 0 });
    let rule = DrawRule { temperature: 1.0, inverse: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let of_row = |row, sample| RowDraw { row, step: 0, sample, tag: [1, 2], key: [3, 4], rule };
    let (ids, logit_rows, draws) = ([5, 9, 11], [1, 2], [of_row(0, 0), of_row(0, 1), of_row(1, 0)]);
    let hidden = decoder.forward_paged(&ids, &rows, &logit_rows, &mut cache()).unwrap();
    let want = draw(&decoder.logits(&hidden).unwrap(), &draws).unwrap();
    let step = DeviceStep { ids: &ids, fed: &[], rows: &rows, logit_rows: &logit_rows, draws: &draws };
    let mut graphs = DecodeGraphs::default();
    decoder.begin_step(&step, &mut cache(), &mut graphs).unwrap();
    assert_eq!(graphs.finish().unwrap(), want);
    assert!(graphs.finish().is_err(), "there was one step");
}

#[test]
fn heads_of_preference_models() {
    let hidden = noise(&[12, 24], 5).unwrap();
    let rows = [0, 11, 3, 3];
    let d_out: Vec<Vec<f32>> =
        (0..4).map(|i| (0..6).map(|j| ((i * 6 + j) % 5) as f32 / 4.0 - 0.5).collect()).collect();
    let run = |dtype: DType| {
        let mut model = decoder("gemma", DType::F32);
        if dtype == DType::BF16 {
            model = twin(&model, dtype);
        }
        PreferenceHeads::add(&mut model, 6, false, 3).unwrap();
        let head = model.parameters().find("value_head.weight").unwrap();
        // Deviation 0.04 to about 1.
        scale_assign(&model.parameters().get(head).value, 25.0).unwrap();
        let hidden = cast(&hidden, dtype);
        let value = PreferenceHeads::of(&model).unwrap().value;
        let out = value.forward(&model, &hidden, &rows).unwrap().concat();
        let mut gradients = selfplay_model::Gradients::zeros(model.parameters()).unwrap();
        let d_hidden = hidden.zeros_like().unwrap();
        value.backward(&model, &hidden, &rows, &d_out, &d_hidden, &mut gradients).unwrap();
        let out = Tensor::from_vec(out, 24, &Device::Cpu).unwrap();
        vec![out, d_hidden, gradients.get(head).unwrap().clone()]
    };
    let want = run(DType::F32);
    let Some(_gpu) = Emulator::start() else { return };
    for (dtype, bound) in [(DType::F32, 1e-6), (DType::BF16, 2e-2)] {
        for (got, want) in run(dtype).iter().zip(&want) {
            let distance = distance(got, want);
            assert!(distance <= bound, "{dtype:?}: {distance:e}");
        }
    }
}

/// Thin products, masks and magnitudes, and inference with rows that know nothing of each other.
#[test]
fn adapters_are_the_cpus() {
    if Emulator::build().is_none() {
        return;
    }
    for (dora, dropout) in [(false, 0.0), (true, 0.0), (false, 0.3), (true, 0.3)] {
        let make = || {
            let config = AdapterConfig { rank: 3, alpha: 6.0, dora, dropout, ..AdapterConfig::default() };
            let mut decoder = decoder("qwen2", DType::F32);
            decoder.add_adapter(config, AdapterStart::Gaussian, 5).unwrap();
            decoder.train_adapter();
            for (_, parameter) in decoder.parameters().iter().filter(|(_, one)| one.name.contains("lora_B")) {
                with_slice_mut::<f32, _>(&parameter.value, |b| {
                    b.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 37 + 5) % 19) as f32 / 40.0 - 0.2);
                })
                .unwrap();
            }
            decoder.set_dropout(Some(9));
            decoder
        };
        let mut cpu = make();
        let want = gradients(&cpu, KeepPlan::LEAST);
        let _gpu = Emulator::start();
        let mut gpu = make();
        let got = gradients(&gpu, KeepPlan::LEAST);
        for (id, gradient) in want.iter() {
            let distance = distance(got.get(id).unwrap(), gradient);
            assert!(distance < 1e-3, "{dora} {dropout} {}: {distance:e}", cpu.parameters().get(id).name);
        }
        drop(_gpu);
        let (batch, ..) = families::batch();
        cpu.set_dropout(None);
        let hidden = cpu.hidden(&batch).unwrap();
        let _gpu = Emulator::start();
        gpu.set_dropout(None);
        gpu.prepare_inference().unwrap();
        for invariant in [false, true] {
            gpu.set_batch_invariant(invariant);
            assert!(distance(&gpu.hidden(&batch).unwrap(), &hidden) < 1e-4, "{dora} {invariant}");
        }
    }
}
