//! OLMo 2: Llama's parts with norms after attention and feed-forward part alone, and norms of all query heads together and of
//! all key heads together, before they are rotated.

use serde_json::json;

use super::family::Family;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layout::{self, LayerModules, LayerNames};
use crate::architecture::{Architecture, QkNorm};
use crate::error::ModelError;

pub(super) const OLMO2: Family = Family {
    model_type: "olmo2",
    multimodal: None,
    class: "Olmo2ForCausalLM",
    defaults: Defaults { rms_norm_eps: 1e-5, ..Defaults::LLAMA },
    read,
    write: |_, _| {},
    modules: |a| layout::modules(a, layer),
    exercise: |_| json!({"attention_bias": true}),
};

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    let bias = fields.flag("attention_bias", false)?;
    (a.qkv_bias, a.output_bias) = (bias, bias);
    a.qk_norm = Some(QkNorm::AllHeads);
    a.post_norms = true;
    Ok(())
}

/// `post_attention_layernorm` is on the attention's output, as its name says.
fn layer(a: &Architecture, names: &LayerNames) -> LayerModules {
    LayerModules {
        attention_norm: None,
        attention_post_norm: Some(names.norm("post_attention_layernorm", a.hidden_size)),
        feed_forward_norm: None,
        feed_forward_post_norm: Some(names.norm("post_feedforward_layernorm", a.hidden_size)),
        ..layout::layer(a, names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layer_names, read, round_trip};
    use super::*;
    use crate::architecture::Activation;

    #[test]
    fn as_transformers_writes_it() {
        let keys = json!({"rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 500000.0, "rope_scaling": null,
            "attention_bias": false, "tie_word_embeddings": false, "eos_token_id": 7});
        let four = read("olmo2", keys);
        assert_eq!(four.rope().unwrap().theta, 500000.0);
        assert_eq!((four.qk_norm, four.post_norms), (Some(QkNorm::AllHeads), true));
        assert_eq!((four.activation, four.windows.clone()), (Activation::Silu, vec![None; 3]));
        assert!(!four.norm_offset && !four.tie_embeddings && !four.qkv_bias);
        round_trip(&four);
        let five = read(
            "olmo2",
            json!({"rms_norm_eps": 1e-6, "attention_bias": false, "eos_token_id": 7,
                "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}),
        );
        assert_eq!(four, five);
    }

    #[test]
    fn absent_keys_have_the_class_s_defaults() {
        let mut config = super::super::testing::config("olmo2", json!({}));
        config.as_object_mut().unwrap().remove("num_key_value_heads");
        let arch = Architecture::from_json(&config, "config.json".as_ref()).unwrap();
        assert_eq!((arch.num_kv_heads, arch.max_positions, arch.rms_norm_eps), (4, 2048, 1e-5));
        assert_eq!(arch.rope().unwrap().theta, 10_000.0);
    }

    #[test]
    fn norms_follow_the_parts_and_span_all_heads() {
        let arch = read("olmo2", json!({}));
        let want = [
            "self_attn.q_proj.weight",
            "self_attn.k_proj.weight",
            "self_attn.v_proj.weight",
            "self_attn.q_norm.weight",
            "self_attn.k_norm.weight",
            "self_attn.o_proj.weight",
            "post_attention_layernorm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
            "mlp.down_proj.weight",
            "post_feedforward_layernorm.weight",
        ];
        assert_eq!(layer_names(&arch, 2), want);
        let widths: Vec<usize> = arch
            .tensors()
            .into_iter()
            .filter(|spec| spec.name.contains("layers.1.self_attn") && spec.name.contains("_norm"))
            .map(|spec| spec.shape[0])
            .collect();
        // Four heads of queries and two of keys, each of 16.
        assert_eq!(widths, [64, 32]);
        let biased = read("olmo2", json!({"attention_bias": true, "mlp_bias": true}));
        assert_eq!(layer_names(&biased, 0).iter().filter(|name| name.ends_with(".bias")).count(), 4);
        round_trip(&biased);
    }
}
