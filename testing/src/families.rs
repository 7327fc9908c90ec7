//! Small decoders of every family and a batch that is ragged, shares a prompt, and is longer than the windows: what tests of
//! forward and backward have in common.

use candle_core::{DType, Tensor};
use selfplay_model::cpu::storage::{with_slice, with_slice_mut};
use selfplay_model::decoder::KeepPlan;
use selfplay_model::{Decoder, Gradients, PackedBatch};
use serde_json::json;

use crate::decoder::{decoder_in, extend};

/// Two or more layers, grouped queries, a window shorter than the sequences, a vocabulary of 40.
pub fn config(family: &str) -> serde_json::Value {
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
        // A full layer between two with windows, each with a rotary embedding of their own.
        "gemma3_text" => {
            json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "sliding_window": 5,
            "sliding_window_pattern": 2, "rope_local_base_freq": 200.0, "query_pre_attn_scalar": 12,
            "rope_scaling": {"rope_type": "linear", "factor": 4.0}})
        }
        // Six of a head's eight numbers rotated.
        "phi3" => {
            json!({"sliding_window": 5, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 48,
            "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.5, 2.25], "long_factor": [2.0, 4.0, 8.0]}})
        }
        "olmo2" => json!({"attention_bias": true}),
        // No rotation and a window on the second layer.
        "smollm3" => {
            json!({"attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true, "no_rope_layer_interval": 2,
            "use_sliding_window": true, "sliding_window": 5})
        }
        _ => {
            json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "sliding_window": 5,
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 12})
        }
    };
    extend(&mut config, extra);
    config
}

/// All families, by `model_type`.
pub const FAMILIES: [&str; 10] =
    ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2", "smollm3"];

/// A decoder of this family, the same in every dtype.
pub fn decoder(family: &str, dtype: DType) -> Decoder {
    let decoder = decoder_in(&config(family), 7, dtype);
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
pub fn batch() -> (PackedBatch, Vec<usize>, Vec<u32>) {
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

/// What the i-th log-prob counts in the loss.
pub fn coefficient(i: usize) -> f64 {
    ((i * 7 + 2) % 11) as f64 / 5.0 - 0.9
}

/// The loss's gradients by all parameters, with this kept for the backward.
pub fn gradients(decoder: &Decoder, keep: KeepPlan) -> Gradients {
    let (batch, rows, targets) = batch();
    let mut gradients = Gradients::zeros(decoder.parameters()).unwrap();
    let tape = decoder.forward_train(&batch, keep).unwrap();
    let d: Vec<f32> = (0..rows.len()).map(|i| coefficient(i) as f32).collect();
    let d_hidden =
        decoder.token_log_probs_backward(tape.hidden(), &rows, &targets, &d, &mut gradients).unwrap();
    decoder.backward(tape, &d_hidden, &mut gradients).unwrap();
    gradients
}

/// A tensor's numbers in f64.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    match tensor.dtype() {
        DType::F64 => with_slice::<f64, _>(tensor, <[f64]>::to_vec).unwrap(),
        _ => with_slice::<f32, _>(tensor, |x| x.iter().map(|&x| f64::from(x)).collect()).unwrap(),
    }
}
