//! Small decoders with random weights, without files.

use candle_core::{DType, Device};
use selfplay_model::{Architecture, Decoder, LoadOptions};
use serde_json::{Value, json};

/// The config.json of a Llama of two layers with grouped queries and 130 tokens, where `keys` are other or further ones.
pub fn config(keys: Value) -> Value {
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 130, "hidden_size": 32,
        "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
    });
    extend(&mut config, keys);
    config
}

/// Puts the keys of one JSON object into another.
pub fn extend(object: &mut Value, keys: Value) {
    for (key, value) in keys.as_object().unwrap() {
        object[key] = value.clone();
    }
}

/// The architecture that a config.json describes.
pub fn architecture(config: &Value) -> Architecture {
    Architecture::from_json(config, "config.json".as_ref()).unwrap()
}

/// A decoder of a config.json with the random weights of a seed, in f32.
pub fn decoder(config: &Value, seed: u64) -> Decoder {
    decoder_in(config, seed, DType::F32)
}

/// The same in another dtype.
pub fn decoder_in(config: &Value, seed: u64, dtype: DType) -> Decoder {
    let options = LoadOptions { device: Device::Cpu, dtype: Some(dtype), ..LoadOptions::default() };
    Decoder::random(architecture(config), seed, &options).unwrap()
}
