//! Writing a model folder in Hugging Face's layout: weights, whole or sharded, configuration and tokenizer files.
//!
//! Tensors go to disk one after the other and piece by piece, so that no second copy of the model is ever in
//! memory. Every file is written by [`selfplay_records::atomic`].

use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use candle_core::{DType, Tensor};
use selfplay_records::atomic;
use serde_json::{Map, Value, json};

use crate::architecture::{Activation, Architecture, Family, RopeScaling, StoredDtype, read_json};
use crate::error::ModelError;
use crate::weights::{INDEX_FILE, SINGLE_FILE};

/// Numbers converted at a time while writing.
const WRITE_CHUNK: usize = 1 << 20;

/// Files that go along with the weights unchanged, where the source folder has them.
const COMPANIONS: [&str; 11] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
];

/// Writes a model folder into `folder`, which exists.
///
/// `tensors` are (Hugging Face name, value), written as `dtype` (f32, bf16 or f16) in shards of at most
/// `max_shard_bytes` (one tensor may exceed it). config.json comes from `source_folder`, with its dtype set to what
/// was written, or is made from `architecture` where there is no source; tokenizer files are copied.
pub fn save<'a>(
    folder: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    dtype: DType,
    max_shard_bytes: usize,
    source_folder: Option<&Path>,
    architecture: &Architecture,
) -> Result<(), ModelError> {
    let format = stored_dtype(dtype)?;
    let tensors: Vec<Entry> = tensors
        .into_iter()
        .map(|(name, tensor)| Entry { name, tensor, bytes: tensor.elem_count() * dtype.size_in_bytes() })
        .collect();
    save_weights(folder, &tensors, format, max_shard_bytes)?;
    save_config(folder, format, source_folder, architecture)?;
    let Some(source) = source_folder else { return Ok(()) };
    for name in COMPANIONS {
        let from = source.join(name);
        if from.is_file() {
            let to = folder.join(name);
            atomic::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// Writes tensors into one safetensors file.
pub fn save_tensors<'a>(
    path: &Path,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    dtype: DType,
) -> Result<(), ModelError> {
    let format = stored_dtype(dtype)?;
    let tensors: Vec<Entry> = tensors
        .into_iter()
        .map(|(name, tensor)| Entry { name, tensor, bytes: tensor.elem_count() * dtype.size_in_bytes() })
        .collect();
    save_file(path, &tensors, format)
}

struct Entry<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    bytes: usize,
}

fn stored_dtype(dtype: DType) -> Result<StoredDtype, ModelError> {
    match dtype {
        DType::F32 => Ok(StoredDtype::F32),
        DType::BF16 => Ok(StoredDtype::Bf16),
        DType::F16 => Ok(StoredDtype::F16),
        other => {
            Err(ModelError::value(format!("weights cannot be stored as {other:?}"), "use f32, bf16 or f16"))
        }
    }
}

fn save_weights(
    folder: &Path,
    tensors: &[Entry],
    format: StoredDtype,
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let shards = split(tensors, max_shard_bytes);
    if shards.len() <= 1 {
        return save_file(&folder.join(SINGLE_FILE), tensors, format);
    }
    let mut weight_map = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        save_file(&folder.join(&name), shard, format)?;
        weight_map.extend(shard.iter().map(|entry| (entry.name.to_owned(), Value::from(name.as_str()))));
    }
    let total: usize = tensors.iter().map(|entry| entry.bytes).sum();
    // The index comes last: a folder that has it has every shard.
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&folder.join(INDEX_FILE), &index)
}

/// Cuts the list, in its order, where the next tensor would not fit.
fn split<'a, 'b>(tensors: &'a [Entry<'b>], max_shard_bytes: usize) -> Vec<&'a [Entry<'b>]> {
    let mut shards = Vec::new();
    let (mut start, mut bytes) = (0, 0usize);
    for (index, entry) in tensors.iter().enumerate() {
        if index > start && bytes.saturating_add(entry.bytes) > max_shard_bytes {
            shards.push(&tensors[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += entry.bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

fn save_file(path: &Path, tensors: &[Entry], format: StoredDtype) -> Result<(), ModelError> {
    let header = header(tensors, format);
    Ok(atomic::write(path, |out: &mut dyn Write| {
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        tensors.iter().try_for_each(|entry| write_tensor(out, entry.tensor, format.dtype()))
    })?)
}

fn header(tensors: &[Entry], format: StoredDtype) -> Vec<u8> {
    let name = match format {
        StoredDtype::F32 => "F32",
        StoredDtype::Bf16 => "BF16",
        StoredDtype::F16 => "F16",
    };
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for entry in tensors {
        let end = offset + entry.bytes;
        let info = json!({ "dtype": name, "shape": entry.tensor.dims(), "data_offsets": [offset, end] });
        header.insert(entry.name.to_owned(), info);
        offset = end;
    }
    let mut bytes = Value::Object(header).to_string().into_bytes();
    // The numbers begin at a multiple of eight, so that readers can map them in place.
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    bytes
}

fn write_tensor(out: &mut dyn Write, tensor: &Tensor, dtype: DType) -> io::Result<()> {
    let flat = tensor.flatten_all().map_err(io::Error::other)?;
    let count = flat.elem_count();
    let mut bytes = Vec::new();
    for start in (0..count).step_by(WRITE_CHUNK) {
        let numbers = start..count.min(start + WRITE_CHUNK);
        fill_bytes(&mut bytes, &flat, numbers, dtype).map_err(io::Error::other)?;
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Fills `bytes` with some of the numbers of `flat`, converted to `dtype`.
fn fill_bytes(
    bytes: &mut Vec<u8>,
    flat: &Tensor,
    numbers: Range<usize>,
    dtype: DType,
) -> candle_core::Result<()> {
    // Where the dtype stays, a view would bring the whole tensor from the device for each piece.
    let piece = flat.narrow(0, numbers.start, numbers.len())?.force_contiguous()?.to_dtype(dtype)?;
    bytes.clear();
    match dtype {
        DType::BF16 => bytes.extend(piece.to_vec1::<half::bf16>()?.iter().flat_map(|x| x.to_le_bytes())),
        DType::F16 => bytes.extend(piece.to_vec1::<half::f16>()?.iter().flat_map(|x| x.to_le_bytes())),
        _ => bytes.extend(piece.to_vec1::<f32>()?.iter().flat_map(|x| x.to_le_bytes())),
    }
    Ok(())
}

fn save_config(
    folder: &Path,
    format: StoredDtype,
    source_folder: Option<&Path>,
    architecture: &Architecture,
) -> Result<(), ModelError> {
    let mut config = match source_folder {
        Some(source) => read_json(&source.join("config.json"), "a model folder holds config.json")?,
        None => config_json(architecture),
    };
    if let Value::Object(config) = &mut config {
        // Transformers 5 writes `dtype` and 4 `torch_dtype`; both read the older one.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), Value::from(format.torch_name()));
        if key == "dtype" && config.contains_key("torch_dtype") {
            config.insert("torch_dtype".to_owned(), Value::from(format.torch_name()));
        }
    }
    write_json(&folder.join("config.json"), &config)
}

/// A config.json that transformers and [`Architecture::from_json`] read as this architecture.
pub fn config_json(architecture: &Architecture) -> Value {
    let class = match architecture.family {
        Family::Llama => "LlamaForCausalLM",
        Family::Mistral => "MistralForCausalLM",
        Family::Qwen2 => "Qwen2ForCausalLM",
        Family::Qwen3 => "Qwen3ForCausalLM",
        Family::Gemma => "GemmaForCausalLM",
        Family::Gemma2 => "Gemma2ForCausalLM",
    };
    let ids = |ids: &[u32]| match ids {
        [] => Value::Null,
        [one] => Value::from(*one),
        several => Value::from(several.to_vec()),
    };
    let activation = match architecture.activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    let gemma2 = architecture.family == Family::Gemma2;
    let window = architecture.windows.iter().flatten().next().copied();
    let mut config = json!({
        "architectures": [class],
        "model_type": architecture.family.model_type(),
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "max_position_embeddings": architecture.max_positions,
        "rms_norm_eps": architecture.rms_norm_eps,
        "tie_word_embeddings": architecture.tie_embeddings,
        if gemma2 { "hidden_activation" } else { "hidden_act" }: activation,
        "rope_theta": architecture.rope.theta,
        "rope_scaling": match architecture.rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_positions,
            }),
        },
        "attention_bias": architecture.output_bias,
        "mlp_bias": architecture.mlp_bias,
        "sliding_window": window,
        "bos_token_id": ids(&architecture.bos_ids),
        "eos_token_id": ids(&architecture.eos_ids),
    });
    if let Value::Object(config) = &mut config {
        if matches!(architecture.family, Family::Qwen2 | Family::Qwen3) {
            config.insert("use_sliding_window".to_owned(), Value::from(window.is_some()));
        }
        if matches!(architecture.family, Family::Qwen2 | Family::Qwen3 | Family::Gemma2) {
            let kind = |w: &Option<usize>| if w.is_some() { "sliding_attention" } else { "full_attention" };
            let types: Vec<&str> = architecture.windows.iter().map(kind).collect();
            config.insert("layer_types".to_owned(), Value::from(types));
        }
        if gemma2 {
            let scalar = architecture.attention_scale.powi(-2);
            // The scalar is a whole number in every published model; its square root's inverse loses that.
            let scalar =
                if (scalar - scalar.round()).abs() < 1e-9 * scalar { scalar.round() } else { scalar };
            config.insert("query_pre_attn_scalar".to_owned(), Value::from(scalar));
            config.insert("attn_logit_softcapping".to_owned(), json!(architecture.attention_softcap));
            config.insert("final_logit_softcapping".to_owned(), json!(architecture.final_softcap));
        }
    }
    config
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let mut text = format!("{value:#}");
    text.push('\n');
    Ok(atomic::write_bytes(path, text.as_bytes())?)
}
