//! The GPU forms of all operations against the CPU's, without a GPU: the very kernels, launches and arguments, run thread by
//! thread by an emulator (`emulator/`). On a GPU, `benches/gpu.sh` makes the same comparisons at full size.

mod emulator;
mod families;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use emulator::Emulator;
use families::{FAMILIES, batch, decoder, gradients, numbers};
use selfplay_model::architecture::Activation;
use selfplay_model::kernels::attention::{Attention, Places};
use selfplay_model::kernels::elementwise::{add_assign, scale_assign, sum};
use selfplay_model::kernels::embedding::{embedding, embedding_backward};
use selfplay_model::kernels::gated_unit::{gated_unit, gated_unit_backward};
use selfplay_model::kernels::gpu::{Emulation, emulate};
use selfplay_model::kernels::linear::{Map, MapGradient, linear, linear_backward};
use selfplay_model::kernels::rms_norm::RmsNorm;
use selfplay_model::kernels::storage::select_rows;
use selfplay_model::{Decoder, KvCache, LoadOptions, PAGE_TOKENS, PackedBatch, PagedRow};

/// Operations take their GPU forms while the guard lives; `None` where there is no C++ compiler.
fn on_gpu() -> Option<Emulation> {
    Some(emulate(Arc::new(Emulator::build()?)))
}

/// Numbers between −1 and 1 that look random.
fn noise(shape: &[usize], seed: u64) -> Tensor {
    let count: usize = shape.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The same numbers in another dtype, in memory of its own.
fn cast(tensor: &Tensor, dtype: DType) -> Tensor {
    tensor.to_dtype(dtype).unwrap().copy().unwrap()
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    numbers(&cast(tensor, DType::F64))
}

/// ‖got − want‖ / ‖want‖; infinite where a number is not finite.
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (wide(got), wide(want));
    if got.iter().any(|x| !x.is_finite()) {
        return f64::INFINITY;
    }
    let off: f64 = got.iter().zip(&want).map(|(g, w)| (g - w) * (g - w)).sum();
    let size: f64 = want.iter().map(|w| w * w).sum();
    (off / size.max(1e-30)).sqrt()
}

#[track_caller]
fn near(got: &Tensor, want: &Tensor, dtype: DType, what: &str) {
    let bound = if dtype == DType::F32 { 2e-6 } else { 8e-3 };
    let distance = distance(got, want);
    assert!(distance <= bound, "{what} in {dtype:?}: {distance:e} of {bound:e}");
}

const DTYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Runs `f` on the CPU in f32 and in its GPU form, on inputs that are exact in `dtype`, and compares all results.
fn compare(what: &str, inputs: &[Tensor], f: impl Fn(&[Tensor]) -> Vec<Tensor>) {
    for dtype in DTYPES {
        let exact: Vec<Tensor> = inputs.iter().map(|x| cast(&cast(x, dtype), DType::F32)).collect();
        let want = f(&exact.iter().map(|x| cast(x, DType::F32)).collect::<Vec<_>>());
        let Some(_gpu) = on_gpu() else { return };
        let got = f(&exact.iter().map(|x| cast(x, dtype)).collect::<Vec<_>>());
        assert_eq!(got.len(), want.len());
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            near(got, want, dtype, &format!("{what}, result {i}"));
        }
    }
}

/// A sum of gradients: f32 whatever the dtype of computation.
fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

/// Widths with and without 16-byte rows, shorter and longer than a block.
const WIDTHS: [usize; 5] = [1, 20, 24, 700, 2056];

#[test]
fn norms() {
    for (h, offset) in WIDTHS.into_iter().zip([false, true, false, true, false]) {
        let norm = RmsNorm { epsilon: 1e-5, offset };
        let inputs = [noise(&[37, h], 1), noise(&[37, h], 2), noise(&[h], 3), noise(&[37, h], 4)];
        compare(&format!("norm of {h}"), &inputs, |x| {
            let (sum, normed) = norm.add_forward::<f32>(&x[0], &x[1], &x[2]).unwrap();
            let alone = norm.forward::<f32>(&x[0], &x[2]).unwrap();
            let (dx, d_weight) = (x[3].copy().unwrap(), zeros(&[h]));
            norm.backward::<f32>(&x[0], &x[2], &x[1], Some(&d_weight), &dx).unwrap();
            let frozen = x[3].copy().unwrap();
            norm.backward::<f32>(&x[0], &x[2], &x[1], None, &frozen).unwrap();
            vec![sum, normed, alone, dx, d_weight, frozen]
        });
    }
}

#[test]
fn norms_of_heads() {
    for (d, heads) in [(8, 3), (70, 2)] {
        let (first, width) = (d, d * (heads + 2));
        let norm = RmsNorm { epsilon: 1e-6, offset: false };
        let inputs = [noise(&[19, width], 1), noise(&[d], 2), noise(&[19, width], 3)];
        compare(&format!("heads of {d}"), &inputs, |x| {
            let y = x[0].copy().unwrap();
            norm.heads_forward::<f32>(&y, first, heads, &x[1]).unwrap();
            let (dx, d_weight) = (x[2].copy().unwrap(), zeros(&[d]));
            norm.heads_backward::<f32>(&x[0], &dx, first, heads, &x[1], Some(&d_weight)).unwrap();
            vec![y, dx, d_weight]
        });
    }
}

#[test]
fn gated_units_and_sums() {
    for width in WIDTHS {
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let inputs = [noise(&[5, 2 * width], 1), noise(&[5, width], 2), noise(&[5, 2 * width], 3)];
            compare(&format!("gated unit of {width}"), &inputs, |x| {
                let y = gated_unit::<f32>(&x[0], activation).unwrap();
                let d = x[0].copy().unwrap();
                gated_unit_backward::<f32>(&d, &x[1], activation).unwrap();
                let added = x[0].copy().unwrap();
                add_assign::<f32>(&added, &x[2]).unwrap();
                scale_assign::<f32>(&added, 0.5).unwrap();
                vec![y, d, sum::<f32>(&x[0], &x[2]).unwrap(), added]
            });
        }
    }
}

#[test]
fn rows_by_index() {
    for width in WIDTHS {
        let inputs = [noise(&[11, width], 1), noise(&[9, width], 2)];
        let ids = [3, 0, 3, 10, 7, 3, 0, 1, 10];
        compare(&format!("rows of {width}"), &inputs, |x| {
            let d_table = zeros(&[11, width]);
            embedding_backward::<f32>(&x[1], &ids, Some(1.5), &d_table).unwrap();
            vec![
                embedding::<f32>(&x[0], &ids, Some(4.5)).unwrap(),
                embedding::<f32>(&x[0], &ids, None).unwrap(),
                select_rows::<f32>(&x[0], &[10, 2, 2]).unwrap(),
                d_table,
            ]
        });
    }
}

#[test]
fn linear_maps_side_by_side() {
    let inputs =
        [noise(&[13, 24], 1), noise(&[10, 24], 2), noise(&[7, 24], 3), noise(&[7], 4), noise(&[13, 17], 5)];
    compare("linear", &inputs, |x| {
        let maps = [Map { weight: &x[1], bias: None }, Map { weight: &x[2], bias: Some(&x[3]) }];
        let y = linear::<f32>(&x[0], &maps).unwrap();
        let (d1, d2, d_bias) = (zeros(&[10, 24]), zeros(&[7, 24]), zeros(&[7]));
        let slots = [
            MapGradient { weight: Some(&d1), bias: None },
            MapGradient { weight: Some(&d2), bias: Some(&d_bias) },
        ];
        let dx = linear_backward::<f32>(&x[0], &x[4], &maps, &slots).unwrap();
        vec![y, dx, d1, d2, d_bias]
    });
}

/// Sequences that are longer than a tile, that share a prompt, and that are one token long.
fn ragged() -> PackedBatch {
    let mut batch = PackedBatch::new();
    batch.push(&[1; 1]);
    let prompt = batch.push(&[1; 70]);
    batch.push_after(prompt, &[1; 33]);
    batch.push_after(prompt, &[1; 95]);
    batch.push_after(prompt, &[1; 1]);
    batch.push(&[1; 130]);
    batch
}

#[test]
fn attention_over_ragged_batches() {
    let batch = ragged();
    for (d, window, softcap) in [
        (64, None, None),
        (24, Some(9), None),
        (10, Some(40), Some(2.0)),
        (128, None, Some(5.0)),
        (100, Some(64), None),
        (256, None, None),
        (160, Some(65), Some(3.0)),
    ] {
        let scale = 1.0 / (d as f64).sqrt() * 4.0;
        let attention = Attention { heads: 4, kv_heads: 2, head_dim: d, scale, softcap, window };
        let inputs = [noise(&[batch.tokens(), 8 * d], 1), noise(&[batch.tokens(), 4 * d], 2)];
        compare(&format!("attention {d} {window:?} {softcap:?}"), &inputs, |x| {
            let places = Places::new(batch.layout());
            let forward = attention.forward::<f32>(&x[0], &places).unwrap();
            let d_qkv = attention.backward::<f32>(&x[0], &forward, &x[1], &places).unwrap();
            vec![forward.output, forward.log_sums, d_qkv]
        });
    }
}

/// A decoder like `like` in another dtype, its weights rounded to it.
fn twin(like: &Decoder, dtype: DType) -> Decoder {
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), heads: false };
    let decoder = Decoder::random(like.architecture().clone(), 7, &options).unwrap();
    for (id, parameter) in decoder.parameters().iter() {
        let value = like.parameters().get(id).value.to_dtype(dtype).unwrap();
        parameter.value.slice_set(&value.copy().unwrap(), 0, 0).unwrap();
    }
    decoder
}

#[test]
fn decoders_of_every_family() {
    let (batch, rows, targets) = batch();
    for family in FAMILIES {
        for dtype in DTYPES {
            let whole = decoder(family, DType::F32);
            if dtype == DType::BF16 {
                // The fixture's weights are so large that a rounding in the first layer decides the last one's scores:
                // its gradients say nothing about bf16. Smaller ones, as models have.
                for (_, parameter) in whole.parameters().iter() {
                    scale_assign::<f32>(&parameter.value, 0.3).unwrap();
                }
            }
            let (gpu_decoder, cpu_decoder) = {
                let Some(_gpu) = on_gpu() else { return };
                let gpu = twin(&whole, dtype);
                (gpu, whole)
            };
            // The CPU computes on the rounded weights.
            for (id, parameter) in cpu_decoder.parameters().iter() {
                let rounded = cast(&gpu_decoder.parameters().get(id).value, DType::F32);
                parameter.value.slice_set(&rounded, 0, 0).unwrap();
            }
            let log_probs = |decoder: &Decoder| {
                let hidden = decoder.hidden(&batch).unwrap();
                let some = decoder.hidden_rows(&batch, &rows).unwrap();
                let values = decoder.token_log_probs(&hidden, &rows, &targets).unwrap();
                let count = values.len();
                vec![Tensor::from_vec(values, count, &Device::Cpu).unwrap(), decoder.logits(&some).unwrap()]
            };
            let (want, want_gradients) = (log_probs(&cpu_decoder), gradients(&cpu_decoder, true));
            let _gpu = on_gpu();
            let (got, got_gradients) = (log_probs(&gpu_decoder), gradients(&gpu_decoder, true));
            let kept = gradients(&gpu_decoder, false);
            // bf16: every activation is rounded, three layers deep, forward and backward.
            let (forward, backward) = if dtype == DType::F32 { (1e-5, 1e-3) } else { (2e-2, 1e-1) };
            for (got, want) in got.iter().zip(&want) {
                let distance = distance(got, want);
                assert!(distance <= forward, "{family} {dtype:?}: {distance:e}");
            }
            for (id, parameter) in gpu_decoder.parameters().iter() {
                let (got, want) = (got_gradients.get(id).unwrap(), want_gradients.get(id).unwrap());
                let distance = distance(got, want);
                // What is near 0 by cancellation (a key's bias) has no digits left in bf16.
                let is_tiny = wide(want).iter().all(|x| x.abs() < 1e-4);
                assert!(
                    distance <= backward || is_tiny,
                    "{family} {dtype:?} {}: {distance:e}",
                    parameter.name
                );
                assert_eq!(wide(got), wide(kept.get(id).unwrap()), "{family}: recomputed bits");
            }
        }
    }
}

#[test]
fn paged_steps_give_what_the_packed_forward_gives() {
    let Some(_gpu) = on_gpu() else { return };
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
                let row = PagedRow { new_tokens: to - from, context: from, pages: &pages };
                let wanted: Vec<usize> = (0..to - from).collect();
                got.push(decoder.forward_paged(&ids[from..to], &[row], &wanted, &mut cache).unwrap());
            }
            cache.copy_page(9, 4).unwrap();
            assert_eq!(PAGE_TOKENS, 16);
            pages.push(11);
            let rows = [
                PagedRow { new_tokens: 1, context: 40, pages: &pages },
                PagedRow { new_tokens: 1, context: 40, pages: &twin_pages },
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

#[test]
fn heads_of_preference_models() {
    let hidden = noise(&[12, 24], 5);
    let rows = [0, 11, 3, 3];
    let d_out: Vec<Vec<f32>> =
        (0..4).map(|i| (0..6).map(|j| ((i * 6 + j) % 5) as f32 / 4.0 - 0.5).collect()).collect();
    let run = |dtype: DType| {
        let mut model = decoder("gemma", DType::F32);
        if dtype == DType::BF16 {
            model = twin(&model, dtype);
        }
        model.add_heads(6, false, 3).unwrap();
        let head = model.value_head().unwrap();
        // Deviation 0.04 to about 1.
        scale_assign::<f32>(&model.parameters().get(head).value, 25.0).unwrap();
        let hidden = cast(&hidden, dtype);
        let out = model.project_rows(&hidden, &rows, head).unwrap().concat();
        let mut gradients = selfplay_model::Gradients::zeros(model.parameters()).unwrap();
        let d_hidden = hidden.zeros_like().unwrap();
        model.project_rows_backward(&hidden, &rows, head, &d_out, &d_hidden, &mut gradients).unwrap();
        let out = Tensor::from_vec(out, 24, &Device::Cpu).unwrap();
        vec![out, d_hidden, gradients.get(head).unwrap().clone()]
    };
    let want = run(DType::F32);
    let Some(_gpu) = on_gpu() else { return };
    for (dtype, bound) in [(DType::F32, 1e-6), (DType::BF16, 2e-2)] {
        for (got, want) in run(dtype).iter().zip(&want) {
            let distance = distance(got, want);
            assert!(distance <= bound, "{dtype:?}: {distance:e}");
        }
    }
}
