//! Gemma 3's language model: Gemma 2's form without soft caps, norms of query and key heads, windows on five of six layers,
//! and a rotary embedding of their own for the layers with windows.
//!
//! A folder of `Gemma3ForConditionalGeneration` is read as its language model, under the names without `language_model.`,
//! and written as one.

use serde_json::{Map, Value, json};

use super::family::Family;
use super::gemma;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layer_types::{self, LayerType};
use crate::architecture::rope::RopeReader;
use crate::architecture::{Architecture, QkNorm, RopeScaling, layout};
use crate::error::ModelError;

pub(super) const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    multimodal: Some("gemma3"),
    class: "Gemma3ForCausalLM",
    defaults: Defaults {
        vocab_size: Some(262_208),
        heads: Some(8),
        kv_heads: Some(4),
        max_positions: 131_072,
        rope_theta: 1_000_000.0,
        sliding_rope_theta: Some(10_000.0),
        ..gemma::GEMMA2.defaults
    },
    read,
    write,
    modules: |a| layout::modules(a, gemma::layer_2),
    exercise: |window| {
        json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "sliding_window": window,
            "sliding_window_pattern": 2, "rope_local_base_freq": 300.0, "query_pre_attn_scalar": 12,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}})
    },
};

/// Layers from one full one to the next, where nothing says it.
const PATTERN: usize = 6;

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    gemma::read(fields, a)?;
    a.attention_scale = 1.0 / fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt();
    a.attention_softcap = fields.positive("attn_logit_softcapping")?;
    a.final_softcap = fields.positive("final_logit_softcapping")?;
    a.post_norms = true;
    a.qk_norm = Some(QkNorm::PerHead);
    let pattern = match fields.count("sliding_window_pattern", usize::MAX)? {
        Some(pattern) => pattern,
        None => fields.count("_sliding_window_pattern", usize::MAX)?.unwrap_or(PATTERN),
    };
    let types = layer_types::read(fields, a.num_layers, |layer| !(layer + 1).is_multiple_of(pattern))?;
    let window = layer_types::window(fields)?;
    layer_types::need_window(fields, window, &types)?;
    let reader = RopeReader {
        fields,
        defaults: &GEMMA3.defaults,
        head_dim: a.head_dim,
        max_positions: a.max_positions,
    };
    let sliding = reader.of_layer_type(LayerType::Sliding)?;
    a.windows = Vec::with_capacity(types.len());
    for (kind, rope) in types.iter().zip(&mut a.ropes) {
        let is_sliding = *kind == LayerType::Sliding;
        a.windows.push(window.filter(|_| is_sliding));
        if is_sliding {
            *rope = Some(sliding.clone());
        }
    }
    Ok(())
}

fn write(a: &Architecture, config: &mut Map<String, Value>) {
    gemma::write_2(a, config);
    let of = |kind: LayerType| {
        let is_sliding = kind == LayerType::Sliding;
        let mut layers = a.windows.iter().zip(&a.ropes);
        layers.find(|(window, _)| window.is_some() == is_sliding).and_then(|(_, rope)| rope.as_ref())
    };
    let (full, sliding) = (of(LayerType::Full), of(LayerType::Sliding));
    let mut put = |key: &str, value| config.insert(key.to_owned(), value);
    if let Some(full) = full {
        put("rope_theta", json!(full.theta));
        put("rope_scaling", full.scaling.to_json());
    }
    if let Some(sliding) = sliding {
        put("rope_local_base_freq", json!(sliding.theta));
        if full.is_none() {
            // They are the first layer's, of which there is nothing to say.
            put("rope_theta", json!(GEMMA3.defaults.rope_theta));
            put("rope_scaling", Value::Null);
        }
        // Only transformers 5 has words for this.
        if sliding.scaling != RopeScaling::None {
            let mut parameters = sliding.scaling.to_json();
            parameters["rope_theta"] = json!(sliding.theta);
            put("rope_parameters", json!({ LayerType::Sliding.name(): parameters }));
        }
    }
}

#[cfg(test)]
mod tests;
