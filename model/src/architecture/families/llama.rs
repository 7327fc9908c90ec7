//! Llama 1 to 3.x, and what is stored in its form.

use serde_json::{Map, Value, json};

use super::family::Family;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::{Architecture, layout};
use crate::error::ModelError;

pub(super) const LLAMA: Family = Family {
    model_type: "llama",
    multimodal: None,
    class: "LlamaForCausalLM",
    defaults: Defaults { max_positions: 2048, ..Defaults::LLAMA },
    read,
    write,
    modules: |a| layout::modules(a, layout::layer),
    exercise: |_| json!({"attention_bias": true, "mlp_bias": true}),
};

fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    let bias = fields.flag("attention_bias", false)?;
    (a.qkv_bias, a.output_bias) = (bias, bias);
    a.mlp_bias = fields.flag("mlp_bias", false)?;
    Ok(())
}

fn write(_: &Architecture, _: &mut Map<String, Value>) {}

#[cfg(test)]
mod tests {
    use super::super::testing::{layer_names, read, round_trip};
    use super::*;
    use crate::architecture::{Activation, Rope, RopeScaling, StoredDtype};

    #[test]
    fn as_transformers_4_writes_it() {
        let arch = read(
            "llama",
            json!({"rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 500000.0, "torch_dtype": "bfloat16",
                "bos_token_id": 1, "eos_token_id": [2, 7], "tie_word_embeddings": false}),
        );
        assert_eq!(*arch.family, LLAMA);
        assert_eq!((arch.head_dim, arch.num_heads, arch.num_kv_heads, arch.max_positions), (16, 4, 2, 2048));
        let rope = Rope { theta: 500000.0, width: 16, scaling: RopeScaling::None };
        assert_eq!((arch.attention_scale, arch.ropes.clone()), (0.25, vec![Some(rope); 3]));
        assert_eq!(arch.windows, vec![None; 3]);
        assert_eq!(arch.activation, Activation::Silu);
        assert_eq!(arch.stored_dtype, Some(StoredDtype::Bf16));
        assert_eq!((&arch.bos_ids[..], &arch.eos_ids[..]), (&[1][..], &[2, 7][..]));
        assert!(!arch.norm_offset && arch.qk_norm.is_none() && !arch.qkv_bias && !arch.tie_embeddings);
        round_trip(&arch);
    }

    #[test]
    fn stored_names_in_the_order_of_a_forward_pass() {
        let names = layer_names(&read("llama", json!({"attention_bias": true})), 1);
        let want = [
            "input_layernorm.weight",
            "self_attn.q_proj.weight",
            "self_attn.q_proj.bias",
            "self_attn.k_proj.weight",
            "self_attn.k_proj.bias",
            "self_attn.v_proj.weight",
            "self_attn.v_proj.bias",
            "self_attn.o_proj.weight",
            "self_attn.o_proj.bias",
            "post_attention_layernorm.weight",
            "mlp.gate_proj.weight",
            "mlp.up_proj.weight",
            "mlp.down_proj.weight",
        ];
        assert_eq!(names, want);
        let arch = read("llama", json!({"mlp_bias": true}));
        assert_eq!(layer_names(&arch, 0).iter().filter(|name| name.ends_with(".bias")).count(), 3);
        round_trip(&arch);
    }
}
