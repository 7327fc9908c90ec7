//! config.json → [`Architecture`], as the configuration and modelling classes of transformers 5.23 read it.

use std::path::Path;

use serde_json::Value;

use super::fields::{Fields, shorten};
use super::{Activation, Architecture, Family, Rope, RopeScaling, StoredDtype};
use crate::error::ModelError;

// Bounds far above any published model; a file beyond them is damaged, not large.
const MOST_VOCABULARY: usize = 1 << 24;
const MOST_WIDTH: usize = 1 << 20;
const MOST_LAYERS: usize = 1 << 12;
const MOST_HEADS: usize = 1 << 12;
const MOST_POSITIONS: usize = 1 << 30;

/// What the family's configuration class assumes where a key is absent.
struct Defaults {
    kv_heads: Option<usize>,
    head_dim: Option<usize>,
    max_positions: usize,
    tie_embeddings: bool,
    activation: &'static str,
}

fn defaults(family: Family) -> Defaults {
    let (kv_heads, head_dim, max_positions, tie_embeddings, activation) = match family {
        Family::Llama => (None, None, 2048, false, "silu"),
        Family::Mistral => (Some(8), None, 131_072, false, "silu"),
        Family::Qwen2 => (Some(32), None, 32_768, false, "silu"),
        Family::Qwen3 => (Some(32), Some(128), 32_768, false, "silu"),
        Family::Gemma => (Some(16), Some(256), 8192, true, "gelu_pytorch_tanh"),
        Family::Gemma2 => (Some(4), Some(256), 8192, true, "gelu_pytorch_tanh"),
    };
    Defaults { kv_heads, head_dim, max_positions, tie_embeddings, activation }
}

pub(super) fn parse(config: &Value, path: &Path) -> Result<Architecture, ModelError> {
    let Value::Object(object) = config else {
        return Err(ModelError::input(
            path,
            "it is not a JSON object",
            "fetch the model's config.json again",
        ));
    };
    let fields = Fields { object, path, prefix: "" };
    let family = family(&fields)?;
    refuse_unsupported(&fields)?;
    let default = defaults(family);

    let vocab_size = fields.required_count("vocab_size", MOST_VOCABULARY)?;
    let hidden_size = fields.required_count("hidden_size", MOST_WIDTH)?;
    let intermediate_size = fields.required_count("intermediate_size", MOST_WIDTH)?;
    let num_layers = fields.required_count("num_hidden_layers", MOST_LAYERS)?;
    let num_heads = fields.required_count("num_attention_heads", MOST_HEADS)?;
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
    let head_dim = head_dim(&fields, &default, hidden_size, num_heads)?;

    let attention_bias = match family {
        Family::Llama | Family::Qwen3 | Family::Gemma | Family::Gemma2 => {
            fields.flag("attention_bias", false)?
        }
        Family::Mistral | Family::Qwen2 => false,
    };
    let gemma = matches!(family, Family::Gemma | Family::Gemma2);
    let gemma2 = family == Family::Gemma2;
    let scale_width = match gemma2 {
        true => fields.positive("query_pre_attn_scalar")?.unwrap_or(256.0),
        false => head_dim as f64,
    };
    let max_positions =
        fields.count("max_position_embeddings", MOST_POSITIONS)?.unwrap_or(default.max_positions);

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
        rms_norm_eps: norm_eps(&fields)?,
        tie_embeddings: fields.flag("tie_word_embeddings", default.tie_embeddings)?,
        activation: activation(&fields, &default, gemma)?,
        rope: rope(&fields, max_positions)?,
        windows: windows(&fields, family, num_layers)?,
        attention_scale: 1.0 / scale_width.sqrt(),
        attention_softcap: if gemma2 { soft_cap(&fields, "attn_logit_softcapping", 50.0)? } else { None },
        final_softcap: if gemma2 { soft_cap(&fields, "final_logit_softcapping", 30.0)? } else { None },
        norm_offset: gemma,
        embedding_scale: gemma.then(|| (hidden_size as f64).sqrt()),
        post_norms: gemma2,
        qk_norm: family == Family::Qwen3,
        qkv_bias: attention_bias || family == Family::Qwen2,
        output_bias: attention_bias,
        mlp_bias: family == Family::Llama && fields.flag("mlp_bias", false)?,
        stored_dtype: stored_dtype(&fields)?,
        bos_ids: fields.token_ids("bos_token_id")?,
        eos_ids: fields.token_ids("eos_token_id")?,
    })
}

fn family(fields: &Fields) -> Result<Family, ModelError> {
    let supported = Family::ALL.map(Family::model_type).join(", ");
    let remedy = format!("the supported model types are {supported}");
    let Some(name) = fields.text("model_type")? else {
        return Err(fields.wrong("model_type", "is missing", &remedy));
    };
    Family::ALL
        .into_iter()
        .find(|family| family.model_type() == name)
        .ok_or_else(|| fields.wrong("model_type", &format!("is \"{name}\", which is not supported"), &remedy))
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ModelError> {
    if fields.get("quantization_config").is_some() {
        return Err(fields.wrong(
            "quantization_config",
            "is there: the weights are quantised, which is not supported",
            "use the model's unquantised weights (float32, bfloat16 or float16)",
        ));
    }
    for key in ["num_local_experts", "num_experts", "n_routed_experts"] {
        if fields.get(key).and_then(Value::as_u64).is_some_and(|n| n > 0) {
            return Err(fields.wrong(
                key,
                "makes this a mixture of experts, which is not supported",
                "use a dense model of the families llama, mistral, qwen2, qwen3, gemma, gemma2",
            ));
        }
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

fn norm_eps(fields: &Fields) -> Result<f64, ModelError> {
    let eps = fields.positive("rms_norm_eps")?.unwrap_or(1e-6);
    if eps >= 1.0 {
        return Err(fields.wrong("rms_norm_eps", &format!("is {eps}"), "it must be below 1, e.g. 1e-6"));
    }
    Ok(eps)
}

fn activation(fields: &Fields, default: &Defaults, gemma: bool) -> Result<Activation, ModelError> {
    let key = if fields.get("hidden_activation").is_some() { "hidden_activation" } else { "hidden_act" };
    let name = fields.text(key)?.unwrap_or(default.activation);
    match name {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        // Gemma's published files say "gelu"; the models were trained with the tanh form, and transformers uses it.
        "gelu" if gemma => Ok(Activation::GeluTanh),
        _ => Err(fields.wrong(
            key,
            &format!("is \"{name}\", which is not supported"),
            "supported are silu and gelu_pytorch_tanh",
        )),
    }
}

fn soft_cap(fields: &Fields, key: &str, default: f64) -> Result<Option<f64>, ModelError> {
    if fields.is_written(key) { fields.positive(key) } else { Ok(Some(default)) }
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

fn rope(fields: &Fields, max_positions: usize) -> Result<Rope, ModelError> {
    let scaling = match fields.object("rope_scaling", "rope_scaling.")? {
        Some(scaling) => Some(scaling),
        None => fields.object("rope_parameters", "rope_parameters.")?.map(one_of_nested).transpose()?,
    };
    let inner_theta = scaling.as_ref().map(|inner| inner.positive("rope_theta")).transpose()?.flatten();
    // A rope_theta inside rope_parameters counts although rope_scaling stands beside it.
    let beside_theta = fields
        .object("rope_parameters", "rope_parameters.")?
        .map(|inner| inner.positive("rope_theta"))
        .transpose()?
        .flatten();
    let theta = inner_theta.or(fields.positive("rope_theta")?).or(beside_theta).unwrap_or(10_000.0);
    if !(1.0..=1e15).contains(&theta) {
        return Err(fields.wrong("rope_theta", &format!("is {theta}"), "it must lie between 1 and 1e15"));
    }
    let partial = [Some(fields), scaling.as_ref()].into_iter().flatten();
    for part in partial {
        if part.positive("partial_rotary_factor")?.is_some_and(|share| share != 1.0) {
            return Err(part.wrong(
                "partial_rotary_factor",
                "is not 1, which is not supported",
                "use a model that turns the whole head",
            ));
        }
    }
    let scaling = match scaling {
        None => RopeScaling::None,
        Some(inner) => rope_scaling(&inner, fields, max_positions)?,
    };
    Ok(Rope { theta, scaling })
}

/// Transformers 5 may write one set of rope parameters per layer type; equal ones are one.
fn one_of_nested<'a>(parameters: Fields<'a>) -> Result<Fields<'a>, ModelError> {
    let nested: Vec<_> = ["full_attention", "sliding_attention"]
        .into_iter()
        .filter_map(|kind| parameters.get(kind).and_then(Value::as_object))
        .collect();
    let Some(first) = nested.first().copied() else { return Ok(parameters) };
    if nested.iter().any(|other| *other != first) {
        return Err(ModelError::input(
            parameters.path,
            "`rope_parameters` differ between the layer types, which is not supported",
            "use a model whose layers share one rotary embedding",
        ));
    }
    Ok(Fields { object: first, ..parameters })
}

fn rope_scaling(inner: &Fields, fields: &Fields, max_positions: usize) -> Result<RopeScaling, ModelError> {
    let key = if inner.get("rope_type").is_some() { "rope_type" } else { "type" };
    match inner.text(key)? {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: inner.required_positive("factor")? }),
        Some("llama3") => {
            let original_max_positions = inner
                .count("original_max_position_embeddings", MOST_POSITIONS)?
                .or(fields.count("original_max_position_embeddings", MOST_POSITIONS)?)
                .unwrap_or(max_positions);
            let low_freq_factor = inner.required_positive("low_freq_factor")?;
            let high_freq_factor = inner.required_positive("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                return Err(inner.wrong(
                    "high_freq_factor",
                    &format!("is {high_freq_factor}, not above `low_freq_factor` = {low_freq_factor}"),
                    "it must be the larger of the two",
                ));
            }
            Ok(RopeScaling::Llama3 {
                factor: inner.required_positive("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            })
        }
        Some(other) => Err(inner.wrong(
            key,
            &format!("is \"{other}\", which is not supported"),
            "supported are default, linear and llama3",
        )),
    }
}

fn windows(fields: &Fields, family: Family, num_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = |default: usize| -> Result<Option<usize>, ModelError> {
        if fields.is_written("sliding_window") {
            fields.count("sliding_window", MOST_POSITIONS)
        } else {
            Ok(Some(default))
        }
    };
    match family {
        Family::Llama | Family::Gemma => Ok(vec![None; num_layers]),
        Family::Mistral => Ok(vec![window(4096)?; num_layers]),
        Family::Qwen2 | Family::Qwen3 => {
            let window = if fields.flag("use_sliding_window", false)? { window(4096)? } else { None };
            let first = match fields.get("max_window_layers").and_then(Value::as_u64) {
                // 0 is a meaning here: every layer has the window.
                Some(first) => first as usize,
                None => fields.count("max_window_layers", usize::MAX)?.unwrap_or(28),
            };
            by_layer_types(fields, window, num_layers, |layer| layer >= first)
        }
        Family::Gemma2 => by_layer_types(fields, window(4096)?, num_layers, |layer| layer % 2 == 0),
    }
}

/// The window on each layer that `layer_types` calls sliding, or `is_sliding` where that key is absent.
fn by_layer_types(
    fields: &Fields,
    window: Option<usize>,
    num_layers: usize,
    is_sliding: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, ModelError> {
    let Some(value) = fields.get("layer_types") else {
        return Ok((0..num_layers).map(|layer| window.filter(|_| is_sliding(layer))).collect());
    };
    let Some(types) = value.as_array().filter(|types| types.len() == num_layers) else {
        return Err(fields.wrong(
            "layer_types",
            &format!("is {}", shorten(value)),
            &format!("it must be a list of {num_layers} names, one for each layer"),
        ));
    };
    types
        .iter()
        .map(|name| match name.as_str() {
            Some("sliding_attention") => Ok(window),
            Some("full_attention") => Ok(None),
            _ => Err(fields.wrong(
                "layer_types",
                &format!("holds {}, which is not supported", shorten(name)),
                "supported are full_attention and sliding_attention",
            )),
        })
        .collect()
}
