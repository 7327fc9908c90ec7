//! Writing a model folder in Hugging Face's layout: weights, whole or sharded, configuration and tokenizer files.
//!
//! Tensors go to disk one after the other and piece by piece ([`safetensors::write`]), so that no second copy of the model
//! is ever in memory. Every file is written by [`selfplay_records::atomic`].

use std::path::Path;

use candle_core::DType;
use selfplay_records::atomic;
use serde_json::{Map, Value, json};

use super::{INDEX_FILE, SINGLE_FILE, Stored, safetensors};
use crate::architecture::{Architecture, StoredDtype, text_config};
use crate::companions::Companions;
use crate::error::ModelError;
use crate::folder::COMPANIONS;

/// Writes a model folder into `folder`, which exists.
///
/// `tensors` are (Hugging Face name, value), written as `dtype` (f32, bf16 or f16) in shards of at most
/// `max_shard_bytes` (one tensor may exceed it). config.json comes from `source_folder`, with its dtype set to what
/// was written, or is made from `architecture` where there is no source, a multimodal one or a GGUF; tokenizer files are
/// copied, or made from a GGUF's metadata.
pub fn save<'a, T: Into<Stored<'a>>>(
    folder: &Path,
    tensors: impl IntoIterator<Item = (&'a str, T)>,
    dtype: DType,
    max_shard_bytes: usize,
    source_folder: Option<&Path>,
    architecture: &Architecture,
) -> Result<(), ModelError> {
    let format = stored_dtype(dtype)?;
    let tensors: Vec<Named> = tensors.into_iter().map(|(name, tensor)| (name, tensor.into())).collect();
    save_weights(folder, &tensors, format, max_shard_bytes)?;
    let source = source_folder.map(Companions::of).transpose()?;
    save_config(folder, format, source.as_ref(), architecture)?;
    let Some(source) = source else { return Ok(()) };
    COMPANIONS.into_iter().try_for_each(|name| source.copy_into(name, folder))
}

type Named<'a> = (&'a str, Stored<'a>);

fn stored_dtype(dtype: DType) -> Result<StoredDtype, ModelError> {
    StoredDtype::of(dtype).ok_or_else(|| {
        ModelError::value(format!("weights cannot be stored as {dtype:?}"), "use f32, bf16 or f16")
    })
}

fn save_weights(
    folder: &Path,
    tensors: &[Named],
    format: StoredDtype,
    max_shard_bytes: usize,
) -> Result<(), ModelError> {
    let bytes = |tensor: &Stored<'_>| tensor.elem_count() * format.dtype().size_in_bytes();
    let shards = split(tensors, bytes, max_shard_bytes);
    if shards.len() <= 1 {
        return save_file(&folder.join(SINGLE_FILE), tensors, format);
    }
    let mut weight_map = Map::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        save_file(&folder.join(&name), shard, format)?;
        weight_map.extend(shard.iter().map(|(tensor, _)| ((*tensor).to_owned(), Value::from(name.as_str()))));
    }
    let total: usize = tensors.iter().map(|(_, tensor)| bytes(tensor)).sum();
    // The index comes last: a folder that has it has every shard.
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    write_json(&folder.join(INDEX_FILE), &index)
}

/// Cuts the list, in its order, where the next tensor would not fit.
fn split<'a, 'b>(
    tensors: &'a [Named<'b>],
    bytes: impl Fn(&Stored<'_>) -> usize,
    max_shard_bytes: usize,
) -> Vec<&'a [Named<'b>]> {
    let mut shards = Vec::new();
    let (mut start, mut filled) = (0, 0usize);
    for (index, (_, tensor)) in tensors.iter().enumerate() {
        let bytes = bytes(tensor);
        if index > start && filled.saturating_add(bytes) > max_shard_bytes {
            shards.push(&tensors[start..index]);
            (start, filled) = (index, 0);
        }
        filled += bytes;
    }
    shards.push(&tensors[start..]);
    shards
}

fn save_file(path: &Path, tensors: &[Named], format: StoredDtype) -> Result<(), ModelError> {
    safetensors::write_stored(path, tensors, format)?;
    Ok(())
}

fn save_config(
    folder: &Path,
    format: StoredDtype,
    source: Option<&Companions>,
    architecture: &Architecture,
) -> Result<(), ModelError> {
    let mut config = match source {
        // A GGUF's is what the architecture was read from, and no configuration of transformers'.
        Some(Companions::Gguf(_)) | None => architecture.to_json(),
        Some(source) => {
            let config = source.json("config.json", "a model folder holds config.json")?;
            // Of a multimodal model only the language model was read, and is written.
            let is_multimodal = config.as_object().and_then(text_config).is_some();
            if is_multimodal { architecture.to_json() } else { config }
        }
    };
    // A head of its own beside a config that ties it: the next reader needs no comparison of the two.
    let says_tied = Architecture::from_json(&config, folder).is_ok_and(|read| read.tie_embeddings);
    if let Value::Object(config) = &mut config {
        // What is written is dense.
        config.remove("quantization_config");
        if says_tied && !architecture.tie_embeddings {
            config.insert("tie_word_embeddings".to_owned(), Value::from(false));
        }
        // Transformers 5 writes `dtype` and 4 `torch_dtype`; both read the older one.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_owned(), Value::from(format.torch_name()));
        if key == "dtype" && config.contains_key("torch_dtype") {
            config.insert("torch_dtype".to_owned(), Value::from(format.torch_name()));
        }
    }
    write_json(&folder.join("config.json"), &config)
}

fn write_json(path: &Path, value: &Value) -> Result<(), ModelError> {
    let mut text = format!("{value:#}");
    text.push('\n');
    Ok(atomic::write_bytes(path, text.as_bytes())?)
}
