//! Gemma 1 (norms by 1 + w, scaled embeddings) and Gemma 2 (soft caps, windows on every second layer, norms after each part
//! of a block besides those before it).

use serde_json::{Map, Value, json};

use super::family::Family;
use crate::architecture::Architecture;
use crate::architecture::defaults::Defaults;
use crate::architecture::fields::Fields;
use crate::architecture::layer_types;
use crate::architecture::layout::{self, LayerModules, LayerNames};
use crate::error::ModelError;

pub(super) const GEMMA: Family = Family {
    model_type: "gemma",
    multimodal: None,
    class: "GemmaForCausalLM",
    defaults: Defaults {
        kv_heads: Some(16),
        head_dim: Some(256),
        max_positions: 8192,
        tie_embeddings: true,
        activation: "gelu_pytorch_tanh",
        // The published files say "gelu"; the models were trained with the tanh form, and transformers uses it.
        gelu_is_tanh: true,
        ..Defaults::LLAMA
    },
    read,
    write: |_, _| {},
    modules: |a| layout::modules(a, layout::layer),
    exercise: |_| json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true}),
};

pub(super) const GEMMA2: Family = Family {
    model_type: "gemma2",
    multimodal: None,
    class: "Gemma2ForCausalLM",
    defaults: Defaults { kv_heads: Some(4), activation_key: "hidden_activation", ..GEMMA.defaults },
    read: read_2,
    write: write_2,
    modules: |a| layout::modules(a, layer_2),
    exercise: |window| {
        json!({"hidden_activation": "gelu_pytorch_tanh", "tie_word_embeddings": true, "sliding_window": window,
            "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 12})
    },
};

pub(super) fn read(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    let bias = fields.flag("attention_bias", false)?;
    (a.qkv_bias, a.output_bias) = (bias, bias);
    a.norm_offset = true;
    a.embedding_scale = Some((a.hidden_size as f64).sqrt());
    Ok(())
}

fn read_2(fields: &Fields, a: &mut Architecture) -> Result<(), ModelError> {
    read(fields, a)?;
    a.attention_scale = 1.0 / fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt();
    a.attention_softcap = soft_cap(fields, "attn_logit_softcapping", 50.0)?;
    a.final_softcap = soft_cap(fields, "final_logit_softcapping", 30.0)?;
    a.windows = layer_types::windows_by_layer(fields, layer_types::window(fields)?, a.num_layers, |layer| {
        layer % 2 == 0
    })?;
    a.post_norms = true;
    Ok(())
}

/// The default where the key is absent; none where it is null.
fn soft_cap(fields: &Fields, key: &str, default: f64) -> Result<Option<f64>, ModelError> {
    if fields.is_written(key) { fields.positive(key) } else { Ok(Some(default)) }
}

pub(super) fn write_2(a: &Architecture, config: &mut Map<String, Value>) {
    config.insert("layer_types".to_owned(), layer_types::write(a));
    let scalar = a.attention_scale.powi(-2);
    // The scalar is a whole number in every published model; its square root's inverse loses that.
    let scalar = if (scalar - scalar.round()).abs() < 1e-9 * scalar { scalar.round() } else { scalar };
    config.insert("query_pre_attn_scalar".to_owned(), Value::from(scalar));
    config.insert("attn_logit_softcapping".to_owned(), json!(a.attention_softcap));
    config.insert("final_logit_softcapping".to_owned(), json!(a.final_softcap));
}

/// `post_attention_layernorm` is on the attention's output here, as its name says.
pub(super) fn layer_2(a: &Architecture, names: &LayerNames) -> LayerModules {
    let norm = |part| Some(names.norm(part, a.hidden_size));
    LayerModules {
        attention_post_norm: norm("post_attention_layernorm"),
        feed_forward_norm: norm("pre_feedforward_layernorm"),
        feed_forward_post_norm: norm("post_feedforward_layernorm"),
        ..layout::layer(a, names)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{layer_names, read, round_trip, try_read};
    use super::*;
    use crate::architecture::Activation;

    #[test]
    fn gemma_says_gelu_and_means_the_tanh_form() {
        let arch = read("gemma", json!({"hidden_act": "gelu", "head_dim": 32}));
        assert_eq!(arch.activation, Activation::GeluTanh);
        assert!(arch.tie_embeddings && arch.norm_offset && !arch.post_norms);
        round_trip(&arch);
        let other = try_read("llama", json!({"hidden_act": "gelu"})).unwrap_err().to_string();
        assert!(other.contains("hidden_act"), "{other}");
    }

    #[test]
    fn gemma_2_by_the_defaults_of_its_class() {
        let arch = read(
            "gemma2",
            json!({"head_dim": 16, "sliding_window": 8, "query_pre_attn_scalar": 64, "attn_logit_softcapping": null}),
        );
        assert_eq!(arch.windows, vec![Some(8), None, Some(8)]);
        assert_eq!(arch.attention_scale, 0.125);
        assert_eq!((arch.attention_softcap, arch.final_softcap), (None, Some(30.0)));
        assert_eq!(arch.activation, Activation::GeluTanh);
        assert_eq!((arch.embedding_scale, arch.max_positions), (Some(8.0), 8192));
        assert!(arch.norm_offset && arch.post_norms && arch.tie_embeddings);
        // embedding + 3 × (q, k, v, o, four norms, three of the feed-forward part) + last norm
        let layer = 2 * 64 * 64 + 2 * 32 * 64 + 4 * 64 + 3 * 128 * 64;
        assert_eq!(arch.parameter_count(), 512 * 64 + 3 * layer + 64);
        let written = round_trip(&arch);
        assert_eq!((&written["query_pre_attn_scalar"], &written["hidden_act"]), (&json!(64.0), &Value::Null));
    }

    #[test]
    fn gemma_2_names_the_norms_by_what_they_follow() {
        let arch = read("gemma2", json!({}));
        let modules = arch.modules();
        let layer = &modules.layers[1];
        let name = |norm: &Option<layout::Norm>| norm.as_ref().map(|norm| norm.name.clone()).unwrap();
        assert_eq!(name(&layer.attention_post_norm), "model.layers.1.post_attention_layernorm");
        assert_eq!(name(&layer.feed_forward_norm), "model.layers.1.pre_feedforward_layernorm");
        let norms: Vec<String> =
            layer_names(&arch, 1).into_iter().filter(|name| name.contains("layernorm")).collect();
        let want = ["input", "post_attention", "pre_feedforward", "post_feedforward"]
            .map(|p| format!("{p}_layernorm.weight"));
        assert_eq!(norms, want);
    }
}
