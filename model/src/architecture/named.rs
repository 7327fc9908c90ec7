//! Published shapes by name, for benches on random weights: no file is read.

use serde_json::{Value, json};

use super::Architecture;
use crate::error::ModelError;

/// The names that [`Architecture::named`] accepts.
pub const NAMES: [&str; 4] = ["llama-3-8b", "gemma-2b", "llama-110m", "llama-15m"];

fn llama(hidden: usize, layers: usize, heads: usize, intermediate: usize) -> Value {
    json!({
        "model_type": "llama", "vocab_size": 32_000, "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2,
    })
}

impl Architecture {
    /// The shape of a published model.
    ///
    /// # Errors
    /// A name that is not one of [`NAMES`].
    pub fn named(name: &str) -> Result<Self, ModelError> {
        let config = match name {
            "llama-3-8b" => json!({
                "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
                "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "hidden_act": "silu",
                "tie_word_embeddings": false, "bos_token_id": 128_000, "eos_token_id": 128_009, "dtype": "bfloat16",
            }),
            "gemma-2b" => json!({
                "model_type": "gemma", "vocab_size": 256_000, "hidden_size": 2048, "intermediate_size": 16_384,
                "num_hidden_layers": 18, "num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 256,
                "max_position_embeddings": 8192, "rms_norm_eps": 1e-6, "rope_theta": 10_000.0,
                "hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "bos_token_id": 2,
                "eos_token_id": 1, "dtype": "bfloat16",
            }),
            "llama-110m" => llama(768, 12, 12, 2048),
            "llama-15m" => llama(288, 6, 6, 768),
            _ => {
                return Err(ModelError::value(
                    format!("no shape is called {name}"),
                    format!("one of {}", NAMES.join(", ")),
                ));
            }
        };
        Self::from_json(&config, name.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_the_published_sizes() {
        let parameters: Vec<usize> =
            NAMES.iter().map(|name| Architecture::named(name).unwrap().parameter_count()).collect();
        assert_eq!(parameters, [8_030_261_248, 2_506_172_416, 109_529_856, 15_191_712]);
        assert!(Architecture::named("llama-4").unwrap_err().to_string().contains("llama-3-8b"));
    }
}
