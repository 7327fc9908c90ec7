//! A writer of GGUF, a header by hand: any metadata, tensors of any bytes. [`tiny`] is the tiny model as one, [`model`] a smaller one of
//! any architecture.

use std::path::{Path, PathBuf};

use selfplay_records::atomic;

use crate::tiny_model::{CONTEXT, HIDDEN, LAYERS, SPECIAL, TEMPLATE, TinyModel, WIDE, WORDS};

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum Meta {
    /// Type 4.
    U32(u32),
    /// Type 5.
    I32(i32),
    /// Type 6.
    F32(f32),
    /// Type 7.
    Bool(bool),
    /// Type 8.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of f32.
    F32s(Vec<f32>),
    /// A list of i32.
    I32s(Vec<i32>),
}

/// A tensor.
#[derive(Clone, Debug)]
pub struct TensorPart {
    /// Its name.
    pub name: String,
    /// Innermost first.
    pub dims: Vec<u64>,
    /// Its type's number.
    pub kind: u32,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// A GGUF in memory.
#[derive(Clone, Debug, Default)]
pub struct GgufParts {
    /// In the file's order.
    pub metadata: Vec<(String, Meta)>,
    /// In the file's order, one after the other.
    pub tensors: Vec<TensorPart>,
}

/// A text of the metadata.
pub fn text(value: &str) -> Meta {
    Meta::Text(value.to_owned())
}

/// A list of texts of the metadata.
pub fn texts(values: &[&str]) -> Meta {
    Meta::Texts(values.iter().map(|value| (*value).to_owned()).collect())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

impl Meta {
    fn put(&self, out: &mut Vec<u8>) {
        let kind: u32 = match self {
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::Text(_) => 8,
            Self::Texts(_) | Self::F32s(_) | Self::I32s(_) => 9,
        };
        out.extend(kind.to_le_bytes());
        let array = |out: &mut Vec<u8>, element: u32, count: usize| {
            out.extend(element.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::Text(value) => put_text(out, value),
            Self::Texts(values) => {
                array(out, 8, values.len());
                values.iter().for_each(|value| put_text(out, value));
            }
            Self::F32s(values) => {
                array(out, 6, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::I32s(values) => {
                array(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

impl GgufParts {
    /// Sets an entry of the metadata.
    pub fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.metadata.retain(|(name, _)| name != key);
        self.metadata.push((key.to_owned(), value));
        self
    }

    /// A tensor of f32.
    pub fn f32s(&mut self, name: &str, dims: &[u64], values: &[f32]) -> &mut Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.tensors.push(TensorPart { name: name.to_owned(), dims: dims.to_vec(), kind: 0, bytes });
        self
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            put_text(&mut out, key);
            value.put(&mut out);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            put_text(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes.len() as u64).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    /// Writes the file into `folder`, as model.gguf.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("model.gguf");
        atomic::write_bytes(&path, &self.bytes()).unwrap();
        path
    }
}

/// A model of one layer, width 8, two query heads of 4 and one key head; numbers count up by hundredths.
pub fn model(architecture: &str) -> GgufParts {
    let mut parts = GgufParts::default();
    parts.set("general.architecture", text(architecture));
    for (key, value) in [
        ("context_length", 64),
        ("embedding_length", 8),
        ("block_count", 1),
        ("feed_forward_length", 16),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 4),
    ] {
        parts.set(&format!("{architecture}.{key}"), Meta::U32(value));
    }
    parts.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Meta::F32(1e-5));
    parts.set(&format!("{architecture}.rope.freq_base"), Meta::F32(500_000.0));
    let tokens = ["<s>", "</s>", "a", "b", "ab", "Ġ", "1", "2", "Ċ", "'", "L"];
    parts
        .set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("gpt-2"))
        .set("tokenizer.ggml.tokens", texts(&tokens))
        .set("tokenizer.ggml.token_type", Meta::I32s([vec![3, 3], vec![1; tokens.len() - 2]].concat()))
        .set("tokenizer.ggml.merges", texts(&["a b"]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(0))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(1));
    let mut count = 0;
    let mut matrix = |parts: &mut GgufParts, name: &str, rows: u64, columns: u64| {
        let values: Vec<f32> = (0..rows * columns).map(|i| ((count + i) % 997) as f32 / 100.0).collect();
        count += 131;
        parts.f32s(name, &[columns, rows], &values);
    };
    matrix(&mut parts, "token_embd.weight", tokens.len() as u64, 8);
    for (part, rows, columns) in [
        ("attn_q", 8, 8),
        ("attn_k", 4, 8),
        ("attn_v", 4, 8),
        ("attn_output", 8, 8),
        ("ffn_gate", 16, 8),
        ("ffn_up", 16, 8),
        ("ffn_down", 8, 16),
    ] {
        matrix(&mut parts, &format!("blk.0.{part}.weight"), rows, columns);
    }
    for norm in ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        parts.f32s(norm, &[8], &[1.5; 8]);
    }
    parts
}

/// The tiny policy as llama.cpp's converter would write it, in f32: the same numbers, rows of queries and keys in pairs. Its
/// tokenizer knows the words, each as one token, and no space between them.
pub fn tiny() -> GgufParts {
    let mut parts = GgufParts::default();
    parts.set("general.architecture", text("llama"));
    for (key, value) in [
        ("context_length", CONTEXT),
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", WIDE),
        ("attention.head_count", 2),
        ("attention.head_count_kv", 1),
        ("rope.dimension_count", 8),
    ] {
        parts.set(&format!("llama.{key}"), Meta::U32(value as u32));
    }
    let kinds = (0..WORDS.len()).map(|id| if id < SPECIAL { 3 } else { 1 }).collect();
    parts
        .set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5))
        .set("llama.rope.freq_base", Meta::F32(10_000.0))
        .set("tokenizer.ggml.model", text("gpt2"))
        .set("tokenizer.ggml.pre", text("gpt-2"))
        .set("tokenizer.ggml.tokens", texts(&WORDS))
        .set("tokenizer.ggml.token_type", Meta::I32s(kinds))
        .set("tokenizer.ggml.merges", texts(&[]))
        .set("tokenizer.ggml.bos_token_id", Meta::U32(1))
        .set("tokenizer.ggml.eos_token_id", Meta::U32(2))
        .set("tokenizer.chat_template", text(TEMPLATE));
    for tensor in TinyModel::POLICY.tensors() {
        let dims: Vec<u64> = tensor.shape.iter().rev().map(|n| *n as u64).collect();
        let heads = match tensor.name.split('.').nth(4) {
            Some("q_proj") => Some(2),
            Some("k_proj") => Some(1),
            _ => None,
        };
        let values = heads.map_or(tensor.values.clone(), |heads| paired(&tensor.values, heads, HIDDEN));
        parts.f32s(&name_in_gguf(&tensor.name), &dims, &values);
    }
    parts
}

/// Rows i and i + d/2 of each head as its rows 2i and 2i + 1.
fn paired(values: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks(values.len() / heads) {
        let rows: Vec<&[f32]> = head.chunks(width).collect();
        let half = rows.len() / 2;
        (0..half).for_each(|i| out.extend([rows[i], rows[i + half]].concat()));
    }
    out
}

fn name_in_gguf(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["model", "embed_tokens", _] => "token_embd.weight".to_owned(),
        ["model", "norm", _] => "output_norm.weight".to_owned(),
        ["lm_head", _] => "output.weight".to_owned(),
        ["model", "layers", layer, .., part, _] => {
            let part = match *part {
                "input_layernorm" => "attn_norm",
                "post_attention_layernorm" => "ffn_norm",
                "q_proj" => "attn_q",
                "k_proj" => "attn_k",
                "v_proj" => "attn_v",
                "o_proj" => "attn_output",
                "gate_proj" => "ffn_gate",
                "up_proj" => "ffn_up",
                "down_proj" => "ffn_down",
                other => other,
            };
            format!("blk.{layer}.{part}.weight")
        }
        _ => name.to_owned(),
    }
}
