//! What all families have in common of config.json → [`Architecture`], as the configuration and modelling classes of
//! transformers 5.23 read it, and of the way back.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::defaults::Defaults;
use super::families::FamilyOf;
use super::fields::{Fields, MOST_POSITIONS};
use super::rope::RopeReader;
use super::{Activation, Architecture, Family, RopeScaling, StoredDtype, quantization};
use crate::error::ModelError;

// Bounds far above any published model; a file beyond them is damaged, not large.
const MOST_VOCABULARY: usize = 1 << 24;
const MOST_WIDTH: usize = 1 << 20;
const MOST_LAYERS: usize = 1 << 12;
const MOST_HEADS: usize = 1 << 12;

/// Reads a config.json; `path` is for messages.
pub(super) fn read(config: &Value, path: &Path) -> Result<Architecture, ModelError> {
    let Value::Object(object) = config else {
        return Err(ModelError::input(
            path,
            "it is not a JSON object",
            "fetch the model's config.json again",
        ));
    };
    let whole = Fields { object, path, prefix: "" };
    let FamilyOf { family, text } = Family::of(&whole)?;
    refuse_unsupported(&whole)?;
    let fields = match &text {
        Some(text) => Fields { object: text, path, prefix: "text_config." },
        None => whole,
    };
    refuse_unsupported(&fields)?;
    let mut architecture = read_common(family, &fields)?;
    family.read(&fields, &mut architecture)?;
    Ok(architecture)
}

/// What all families have: no window, no soft cap, no bias, one norm before each part of a block.
fn read_common(family: &'static Family, fields: &Fields) -> Result<Architecture, ModelError> {
    let default = family.defaults();
    let vocab_size = fields.count_or("vocab_size", MOST_VOCABULARY, default.vocab_size)?;
    let hidden_size = fields.required_count("hidden_size", MOST_WIDTH)?;
    let intermediate_size = fields.required_count("intermediate_size", MOST_WIDTH)?;
    let num_layers = fields.required_count("num_hidden_layers", MOST_LAYERS)?;
    let num_heads = fields.count_or("num_attention_heads", MOST_HEADS, default.heads)?;
    // Written as null it means one per query head; absent, the class's default.
    let kv_heads_default = if fields.is_written("num_key_value_heads") {
        None
    } else {
        default.kv_heads.filter(|n| *n <= num_heads)
    };
    let num_kv_heads =
        fields.count("num_key_value_heads", MOST_HEADS)?.or(kv_heads_default).unwrap_or(num_heads);
    if num_heads % num_kv_heads != 0 {
        return Err(fields.wrong(
            "num_key_value_heads",
            &format!("is {num_kv_heads}, which does not divide `num_attention_heads` = {num_heads}"),
            "each key head must serve the same number of query heads",
        ));
    }
    let head_dim = head_dim(fields, default, hidden_size, num_heads)?;
    let max_positions =
        fields.count("max_position_embeddings", MOST_POSITIONS)?.unwrap_or(default.max_positions);
    let rope = RopeReader { fields, defaults: default, head_dim, max_positions }.common()?;
    let max_positions = match &rope.scaling {
        RopeScaling::Long { original_max_positions, .. } => max_positions.min(*original_max_positions),
        _ => max_positions,
    };
    Ok(Architecture {
        family,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers,
        num_heads,
        num_kv_heads,
        head_dim,
        max_positions,
        rms_norm_eps: norm_eps(fields, default)?,
        tie_embeddings: fields.flag("tie_word_embeddings", default.tie_embeddings)?,
        activation: activation(fields, default)?,
        ropes: vec![Some(rope); num_layers],
        windows: vec![None; num_layers],
        attention_scale: 1.0 / (head_dim as f64).sqrt(),
        attention_softcap: None,
        final_softcap: None,
        norm_offset: false,
        embedding_scale: None,
        post_norms: false,
        qk_norm: None,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        stored_dtype: stored_dtype(fields)?,
        bos_ids: fields.token_ids("bos_token_id")?,
        eos_ids: fields.token_ids("eos_token_id")?,
    })
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ModelError> {
    quantization::check(fields)?;
    for key in ["num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"] {
        if fields.get(key).and_then(Value::as_u64).is_some_and(|n| n > 0) {
            return Err(fields.wrong(
                key,
                "makes this a mixture of experts, which is not supported",
                &format!("use a dense model of the families {}", Family::list()),
            ));
        }
    }
    if fields.get("kv_lora_rank").and_then(Value::as_u64).is_some_and(|n| n > 0) {
        return Err(fields.wrong(
            "kv_lora_rank",
            "makes this multi-head latent attention, which is not supported",
            &format!("use a dense model of the families {}", Family::list()),
        ));
    }
    if fields.get("use_bidirectional_attention") == Some(&Value::Bool(true)) {
        return Err(fields.wrong(
            "use_bidirectional_attention",
            "is true, which is not supported",
            "use a causal language model",
        ));
    }
    Ok(())
}

fn head_dim(
    fields: &Fields,
    default: &Defaults,
    hidden_size: usize,
    num_heads: usize,
) -> Result<usize, ModelError> {
    // Written as null, every family divides the width among the heads; absent, the class's default.
    let class_default = if fields.is_written("head_dim") { None } else { default.head_dim };
    let head_dim = match fields.count("head_dim", MOST_WIDTH)?.or(class_default) {
        Some(head_dim) => head_dim,
        None if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
        None => {
            return Err(fields.wrong(
                "num_attention_heads",
                &format!("is {num_heads}, which does not divide `hidden_size` = {hidden_size}"),
                "either it divides, or `head_dim` is given",
            ));
        }
    };
    if head_dim % 2 != 0 {
        return Err(fields.wrong(
            "head_dim",
            &format!("is {head_dim}, an odd number"),
            "the rotary embedding turns pairs of numbers: it must be even",
        ));
    }
    Ok(head_dim)
}

fn norm_eps(fields: &Fields, default: &Defaults) -> Result<f64, ModelError> {
    let eps = fields.positive("rms_norm_eps")?.unwrap_or(default.rms_norm_eps);
    if eps >= 1.0 {
        return Err(fields.wrong("rms_norm_eps", &format!("is {eps}"), "it must be below 1, e.g. 1e-6"));
    }
    Ok(eps)
}

fn activation(fields: &Fields, default: &Defaults) -> Result<Activation, ModelError> {
    let key = if fields.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    let name = fields.text(key)?.unwrap_or(default.activation);
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        "gelu" if default.gelu_is_tanh => Ok(Activation::GeluTanh),
        _ => Err(fields.wrong(
            key,
            &format!("is \"{name}\", which is not supported"),
            "supported are silu and gelu_pytorch_tanh",
        )),
    }
}

fn stored_dtype(fields: &Fields) -> Result<Option<StoredDtype>, ModelError> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    Ok(match fields.text(key)?.map(|name| name.trim_start_matches("torch.")) {
        Some("float32" | "float") => Some(StoredDtype::F32),
        Some("bfloat16") => Some(StoredDtype::Bf16),
        Some("float16" | "half") => Some(StoredDtype::F16),
        // Anything else says nothing about the files; the reader of the weights judges those themselves.
        _ => None,
    })
}

/// A config.json that transformers and [`read`] read as this architecture.
pub(super) fn write(a: &Architecture) -> Map<String, Value> {
    let ids = |ids: &[u32]| match ids {
        [] => Value::Null,
        [one] => Value::from(*one),
        several => Value::from(several.to_vec()),
    };
    let activation = match a.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let entries = [
        ("architectures", json!([a.family.class()])),
        ("model_type", json!(a.family.model_type())),
        ("vocab_size", json!(a.vocab_size)),
        ("hidden_size", json!(a.hidden_size)),
        ("intermediate_size", json!(a.intermediate_size)),
        ("num_hidden_layers", json!(a.num_layers)),
        ("num_attention_heads", json!(a.num_heads)),
        ("num_key_value_heads", json!(a.num_kv_heads)),
        ("head_dim", json!(a.head_dim)),
        ("max_position_embeddings", json!(a.max_positions)),
        ("rms_norm_eps", json!(a.rms_norm_eps)),
        ("tie_word_embeddings", json!(a.tie_embeddings)),
        (a.family.defaults().activation_key, json!(activation)),
        ("attention_bias", json!(a.output_bias)),
        ("mlp_bias", json!(a.mlp_bias)),
        ("sliding_window", json!(a.windows.iter().flatten().next())),
        ("bos_token_id", ids(&a.bos_ids)),
        ("eos_token_id", ids(&a.eos_ids)),
    ];
    let mut config: Map<String, Value> =
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let rope_keys = a.rope().map(|rope| rope.to_keys(a.head_dim)).unwrap_or_default();
    config.extend(rope_keys.into_iter().map(|(key, value)| (key.to_owned(), value)));
    a.family.write(a, &mut config);
    config
}
