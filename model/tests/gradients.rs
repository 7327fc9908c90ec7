//! Every trainable parameter of every family has a finite, non-zero gradient that agrees with a directional
//! derivative of the loss taken in f64.
//!
//! The backward is written by hand (no tape), so that an operation cannot cut the gradient silently; what this
//! test catches is a backward that is wrong, or one that a new parameter was left out of.

use candle_core::{DType, Device, Tensor};
use selfplay_model::kernels::storage::{with_slice, with_slice_mut};
use selfplay_model::{Architecture, Decoder, Gradients, LoadOptions, PackedBatch};
use serde_json::json;

/// Two or more layers, grouped queries, a window shorter than the sequences, a vocabulary of 40.
fn config(family: &str) -> serde_json::Value {
    let mut config = json!({
        "model_type": family, "vocab_size": 40, "hidden_size": 24, "intermediate_size": 36, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    let extra = match family {
        "llama" => {
            json!({"attention_bias": true, "mlp_bias": true, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}})
        }
        "mistral" => json!({"sliding_window": 5}),
        "qwen2" => json!({"use_sliding_window": false}),
        "qwen3" => json!({"attention_bias": true, "use_sliding_window": false}),
        "gemma" => json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true}),
        _ => {
            json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "sliding_window": 5,
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 12})
        }
    };
    for (key, value) in extra.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

const FAMILIES: [&str; 6] = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"];

fn decoder(family: &str, dtype: DType) -> Decoder {
    let architecture = Architecture::from_json(&config(family), "config.json".as_ref()).unwrap();
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), heads: false };
    let decoder = Decoder::random(architecture, 7, &options).unwrap();
    // Fresh weights are small and biases 0: spread them, so that no gradient is tiny for that reason alone.
    for (id, parameter) in decoder.parameters().iter() {
        let spread = |i: usize| ((i * 2654435761 + id.index() * 40503) % 1000) as f64 / 1000.0 - 0.5;
        match dtype {
            DType::F64 => with_slice_mut::<f64, _>(&parameter.value, |w| {
                w.iter_mut().enumerate().for_each(|(i, x)| *x = (*x * 6.0 + 0.3 * spread(i)) as f32 as f64);
            }),
            _ => with_slice_mut::<f32, _>(&parameter.value, |w| {
                w.iter_mut()
                    .enumerate()
                    .for_each(|(i, x)| *x = (f64::from(*x) * 6.0 + 0.3 * spread(i)) as f32);
            }),
        }
        .unwrap();
    }
    decoder
}

/// A prompt with two responses, a longer sequence of its own, and a short one: ragged, past the window.
fn batch() -> (PackedBatch, Vec<usize>, Vec<u32>) {
    let id = |i: usize| ((i * 17 + 3) % 40) as u32;
    let ids = |range: std::ops::Range<usize>| range.map(id).collect::<Vec<u32>>();
    let mut batch = PackedBatch::new();
    let prompt = batch.push(&ids(0..7));
    batch.push_after(prompt, &ids(20..29));
    batch.push_after(prompt, &ids(31..35));
    batch.push(&ids(40..57));
    batch.push(&ids(60..63));
    let rows: Vec<usize> = (3..batch.tokens()).step_by(2).collect();
    let targets = rows.iter().map(|&r| id(r * 5 + 1)).collect();
    (batch, rows, targets)
}

fn coefficient(i: usize) -> f64 {
    ((i * 7 + 2) % 11) as f64 / 5.0 - 0.9
}

fn loss(decoder: &Decoder) -> f64 {
    let (batch, rows, targets) = batch();
    let hidden = decoder.hidden(&batch).unwrap();
    let log_probs = decoder.token_log_probs_f64(&hidden, &rows, &targets).unwrap();
    log_probs.iter().enumerate().map(|(i, x)| (coefficient(i) as f32 as f64) * x).sum()
}

fn gradients(decoder: &Decoder, recompute: bool) -> Gradients {
    let (batch, rows, targets) = batch();
    let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
    let tape = decoder.forward_train(&batch, recompute).unwrap();
    let d: Vec<f32> = (0..rows.len()).map(|i| coefficient(i) as f32).collect();
    let d_hidden =
        decoder.token_log_probs_backward(tape.hidden(), &rows, &targets, &d, &mut gradients).unwrap();
    decoder.backward(tape, &d_hidden, &mut gradients).unwrap();
    gradients
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F64 => with_slice::<f64, _>(tensor, <[f64]>::to_vec).unwrap(),
        _ => with_slice::<f32, _>(tensor, |x| x.iter().map(|&x| f64::from(x)).collect()).unwrap(),
    }
}

#[test]
fn every_gradient_agrees_with_a_directional_derivative() {
    for family in FAMILIES {
        let decoder = decoder(family, DType::F64);
        let gradients = gradients(&decoder, false);
        for (id, parameter) in decoder.parameters().iter() {
            let gradient = numbers(gradients.get(id).unwrap());
            assert!(gradient.iter().all(|g| g.is_finite()), "{family} {}", parameter.name);
            assert!(gradient.iter().any(|&g| g != 0.0), "{family} {}: no gradient", parameter.name);
            let direction: Vec<f64> =
                (0..gradient.len()).map(|i| ((i * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
            let shift = |by: f64| {
                with_slice_mut::<f64, _>(&parameter.value, |w| {
                    w.iter_mut().zip(&direction).for_each(|(w, v)| *w += by * v);
                })
                .unwrap();
            };
            // Five points: the error is of the order ε⁴.
            let e = 1e-6;
            shift(e);
            let plus = loss(&decoder);
            shift(e);
            let plus2 = loss(&decoder);
            shift(-3.0 * e);
            let minus = loss(&decoder);
            shift(-e);
            let minus2 = loss(&decoder);
            shift(2.0 * e);
            let want = (8.0 * (plus - minus) - (plus2 - minus2)) / (12.0 * e);
            let got: f64 = gradient.iter().zip(&direction).map(|(g, v)| g * v).sum();
            let size: f64 = gradient.iter().zip(&direction).map(|(g, v)| (g * v).abs()).sum();
            // f32 tables of cos and sin are constants to both sides; what remains is the difference's own error.
            // A key's bias shifts all scores of a query alike before rope; its gradient is near 0 without being 0.
            assert!(
                (got - want).abs() <= 1e-6 * size.max(1e-4),
                "{family} {}: {got} but {want}",
                parameter.name
            );
        }
    }
}

#[test]
fn f32_gradients_agree_with_f64() {
    for family in FAMILIES {
        let (exact, work) = (decoder(family, DType::F64), decoder(family, DType::F32));
        let (exact_gradients, gradients) = (gradients(&exact, false), gradients(&work, false));
        for (id, parameter) in work.parameters().iter() {
            let (want, got) =
                (numbers(exact_gradients.get(id).unwrap()), numbers(gradients.get(id).unwrap()));
            let largest = want.iter().fold(0.0f64, |m, x| m.max(x.abs()));
            let worst = want.iter().zip(&got).fold(0.0f64, |m, (a, b)| m.max((a - b).abs()));
            assert!(worst <= 1e-3 * largest + 1e-5, "{family} {}: {worst} of {largest}", parameter.name);
        }
    }
}

#[test]
fn recomputation_changes_no_bit() {
    for family in FAMILIES {
        let decoder = decoder(family, DType::F32);
        let (kept, recomputed) = (gradients(&decoder, false), gradients(&decoder, true));
        for (id, gradient) in kept.iter() {
            assert_eq!(numbers(gradient), numbers(recomputed.get(id).unwrap()), "{family}");
        }
    }
}

#[test]
fn frozen_parameters_get_no_gradient_and_change_no_other() {
    let mut decoder = decoder("qwen2", DType::F32);
    let all = gradients(&decoder, false);
    decoder.parameters_mut().set_trainable(|p| p.name.contains("layers.1"));
    let some = gradients(&decoder, false);
    for (id, parameter) in decoder.parameters().iter() {
        match some.get(id) {
            Some(gradient) => assert_eq!(numbers(gradient), numbers(all.get(id).unwrap())),
            None => assert!(!parameter.name.contains("layers.1")),
        }
    }
}
