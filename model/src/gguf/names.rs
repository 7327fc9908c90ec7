//! A tensor of a GGUF → where it belongs in a folder in Hugging Face's layout.

use super::Gguf;
use super::architecture::GgufArchitecture;
use super::header::TensorEntry;
use crate::error::ModelError;
use crate::weights::{Adjustment, Encoding, TensorLocation};

/// What rotary frequencies are divided by: read with the configuration.
pub(super) const ROPE_TENSORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Every tensor under its name in a folder.
pub(super) fn stored(gguf: &Gguf) -> Result<Vec<(String, TensorLocation)>, ModelError> {
    let architecture = gguf.architecture()?;
    let prefix = architecture.name();
    let heads = gguf.required_count(&format!("{prefix}.attention.head_count"))?;
    let kv_heads = gguf.count(&format!("{prefix}.attention.head_count_kv"))?.unwrap_or(heads);
    let mut found = Vec::new();
    for (name, entry) in &gguf.tensors {
        if ROPE_TENSORS.contains(&name.as_str()) {
            continue;
        }
        let Some(plain) = plain_name(name, architecture) else {
            return Err(ModelError::input(
                gguf.path(),
                format!("its tensor {name} is none of the architecture {prefix}"),
                "take a file of a plain model: no adapter, no mixture of experts, no variant of the architecture",
            ));
        };
        let paired = |heads: usize| {
            let rows = entry.shape[0];
            if architecture.has_paired_rows() && heads > 0 && rows % (2 * heads) == 0 {
                Adjustment::UnpairRows { heads }
            } else {
                Adjustment::None
            }
        };
        let adjustment = match part(name) {
            Some("attn_q") => paired(heads),
            Some("attn_k") => paired(kv_heads),
            _ if name.ends_with("norm.weight") && architecture.has_whole_norms() => Adjustment::MinusOne,
            _ => Adjustment::None,
        };
        let TensorEntry { shape, format, bytes } = entry.clone();
        let encoding = Encoding::of_ggml(format);
        let tensor =
            TensorLocation { shard: 0, stored_name: name.clone(), shape, encoding, bytes, adjustment };
        found.push((plain, tensor));
    }
    Ok(found)
}

/// PART of blk.N.PART.weight.
fn part(name: &str) -> Option<&str> {
    let (_, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some(rest.rsplit_once('.')?.0)
}

/// The name in a folder; `None` of a tensor that the architecture does not have.
fn plain_name(name: &str, architecture: GgufArchitecture) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        // A reranker's or a reward model's head.
        "cls.output.weight" | "score.weight" => Some("score.weight"),
        "value_head.weight" | "prompt_head.weight" => Some(name),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (part, kind) = rest.rsplit_once('.')?;
    if !["weight", "bias"].contains(&kind) {
        return None;
    }
    let is_fused = architecture == GgufArchitecture::Phi3;
    let plain = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" if is_fused => "self_attn.qkv_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_output" => "self_attn.o_proj",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" if architecture.has_four_norms() => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" if !is_fused => "mlp.gate_proj",
        "ffn_up" if is_fused => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "post_ffw_norm" => "post_feedforward_layernorm",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{plain}.{kind}"))
}
