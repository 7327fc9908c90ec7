//! What a model is made of, read from its `config.json`: sizes, activations, rotary embedding, windows, biases.
//!
//! Everything that differs between the families is a field here, so that the decoder has one code path and asks
//! the fields, never the family; how a family's files are read and written is the family's file in `families/`. The
//! values are those that transformers 5.23 computes from the same file; it reads what transformers 4 wrote
//! (`rope_theta`, `rope_scaling`, `torch_dtype`) and what 5 writes (`rope_parameters`, `dtype`). Keys that are absent
//! have the default of the family's configuration class.

mod config;
mod cost;
mod defaults;
mod families;
mod fields;
mod layer_types;
pub(crate) mod layout;
mod named;
mod quantization;
mod rope;

use std::path::Path;

use serde_json::Value;

pub use cost::nf4_bytes;
pub use families::Family;
pub(crate) use families::text_config;
pub(crate) use fields::token_ids;
pub(crate) use layout::Modules;
pub use layout::{ParameterKind, TensorSpec};
pub use named::NAMES;
pub use quantization::is_stored_in_four_bits;
pub use rope::{Rope, RopeScaling};

use crate::companions::Companions;
use crate::error::ModelError;

/// The gate's activation in the feed-forward part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·σ(x).
    Silu,
    /// GELU by its tanh form.
    GeluTanh,
}

/// Over what queries and keys are normalised before they are rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself, with factors that all heads share \[d].
    PerHead,
    /// All heads of a token together, with factors of their own \[heads · d].
    AllHeads,
}

/// Number formats that weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoredDtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl StoredDtype {
    /// The name in config.json (`torch_dtype`, `dtype`).
    pub fn torch_name(self) -> &'static str {
        match self {
            StoredDtype::F32 => "float32",
            StoredDtype::Bf16 => "bfloat16",
            StoredDtype::F16 => "float16",
        }
    }

    /// The name in the header of a safetensors file.
    pub(crate) fn safetensors_name(self) -> &'static str {
        match self {
            StoredDtype::F32 => "F32",
            StoredDtype::Bf16 => "BF16",
            StoredDtype::F16 => "F16",
        }
    }

    /// The format of a tensor type; `None` of one that weights are not stored in.
    pub(crate) fn of(dtype: candle_core::DType) -> Option<Self> {
        match dtype {
            candle_core::DType::F32 => Some(StoredDtype::F32),
            candle_core::DType::BF16 => Some(StoredDtype::Bf16),
            candle_core::DType::F16 => Some(StoredDtype::F16),
            _ => None,
        }
    }

    /// The tensor type of the same format.
    pub fn dtype(self) -> candle_core::DType {
        match self {
            StoredDtype::F32 => candle_core::DType::F32,
            StoredDtype::Bf16 => candle_core::DType::BF16,
            StoredDtype::F16 => candle_core::DType::F16,
        }
    }
}

/// One decoder's shape and arithmetic. What it costs: `cost.rs`.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Which family's names and conventions.
    pub family: &'static Family,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest context, in tokens; with [`RopeScaling::Long`] the one before its extension.
    pub max_positions: usize,
    /// ε inside the root of every norm.
    pub rms_norm_eps: f64,
    /// The output head is the embedding.
    pub tie_embeddings: bool,
    /// Activation of the gate.
    pub activation: Activation,
    /// Per layer: its rotary embedding; `None` has none (every fourth layer of SmolLM 3).
    pub ropes: Vec<Option<Rope>>,
    /// Per layer: a query sees itself and the `window − 1` positions before it; `None` sees all before it.
    pub windows: Vec<Option<usize>>,
    /// Factor of q·k: head_dim^−½, or query_pre_attn_scalar^−½ for Gemma 2 and 3.
    pub attention_scale: f64,
    /// Attention scores x become c·tanh(x/c).
    pub attention_softcap: Option<f64>,
    /// Logits x become c·tanh(x/c).
    pub final_softcap: Option<f64>,
    /// Norms multiply by 1 + w instead of w (Gemma).
    pub norm_offset: bool,
    /// Embeddings are multiplied by this (Gemma: √hidden_size, not yet rounded to the dtype of computation).
    pub embedding_scale: Option<f64>,
    /// Norms after attention and after the feed-forward part, before they join the stream (Gemma 2 and 3,
    /// OLMo 2).
    pub post_norms: bool,
    /// Norms of queries and keys (Qwen 3, Gemma 3, OLMo 2).
    pub qk_norm: Option<QkNorm>,
    /// Bias on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub output_bias: bool,
    /// Bias on the three feed-forward projections.
    pub mlp_bias: bool,
    /// What config.json says the weights are stored in, where it says so.
    pub stored_dtype: Option<StoredDtype>,
    /// `bos_token_id` of config.json; empty where it has none.
    pub bos_ids: Vec<u32>,
    /// `eos_token_id` of config.json, one or several; empty where it has none.
    pub eos_ids: Vec<u32>,
}

impl Architecture {
    /// Reads `folder`/config.json, or the metadata of the GGUF that `folder` is. Errors: no folder, no file, an adapter's folder, a link that leaves the folder, not
    /// JSON, anything that [`Self::from_json`] refuses.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let files = Companions::checked(folder)?;
        let path = files.path("config.json");
        if !path.exists()
            && let Some(fault) = crate::adapter::fault(folder)
        {
            return Err(fault);
        }
        Self::from_json(&files.json("config.json", "a model folder holds config.json")?, &path)
    }

    /// Reads the content of a config.json; `path` is for messages only.
    ///
    /// Errors: a family, rotary scaling, quantisation or mixture of experts that is not supported; a number that
    /// is missing, of the wrong type, zero, absurdly large, or at odds with another.
    pub fn from_json(config: &Value, path: &Path) -> Result<Self, ModelError> {
        config::read(config, path)
    }

    /// A config.json that transformers and [`Self::from_json`] read as this architecture.
    pub fn to_json(&self) -> Value {
        Value::Object(config::write(self))
    }

    /// The rotary embedding of the first layer that has one.
    pub fn rope(&self) -> Option<&Rope> {
        self.ropes.iter().flatten().next()
    }

    /// Number of weights, each counted once (a tied head is the embedding).
    pub fn parameter_count(&self) -> usize {
        self.tensors().iter().map(|spec| spec.shape.iter().product::<usize>()).sum()
    }

    /// Every tensor of the model by its Hugging Face name, in the order of a forward pass.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        self.modules().tensors()
    }

    /// The model's modules by what they do, under the names that they are stored under.
    pub(crate) fn modules(&self) -> Modules {
        self.family.modules(self)
    }
}
