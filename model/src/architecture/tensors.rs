//! The one list of tensor names and shapes: reading, random initialisation and writing all go by it.

use super::Architecture;

/// What a parameter is, for weight decay and initialisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParameterKind {
    /// A weight [out, in].
    Matrix,
    /// The embedding [vocab, hidden].
    Embedding,
    /// The factors of a norm \[width].
    Norm,
    /// A bias \[out].
    Bias,
}

/// A tensor that a model folder must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its Hugging Face name, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape, outputs first.
    pub shape: Vec<usize>,
    /// What it is.
    pub kind: ParameterKind,
}

struct List(Vec<TensorSpec>);

impl List {
    fn push(&mut self, name: String, shape: &[usize], kind: ParameterKind) {
        self.0.push(TensorSpec { name, shape: shape.to_vec(), kind });
    }

    fn norm(&mut self, name: String, width: usize) {
        self.push(format!("{name}.weight"), &[width], ParameterKind::Norm);
    }

    fn linear(&mut self, name: String, outputs: usize, inputs: usize, bias: bool) {
        self.push(format!("{name}.weight"), &[outputs, inputs], ParameterKind::Matrix);
        if bias {
            self.push(format!("{name}.bias"), &[outputs], ParameterKind::Bias);
        }
    }
}

pub(super) fn list(arch: &Architecture) -> Vec<TensorSpec> {
    let (hidden, wide) = (arch.hidden_size, arch.intermediate_size);
    let queries = arch.num_heads * arch.head_dim;
    let keys = arch.num_kv_heads * arch.head_dim;
    let mut list = List(Vec::new());
    list.push("model.embed_tokens.weight".to_owned(), &[arch.vocab_size, hidden], ParameterKind::Embedding);
    for layer in 0..arch.num_layers {
        let at = |part: &str| format!("model.layers.{layer}.{part}");
        list.norm(at("input_layernorm"), hidden);
        list.linear(at("self_attn.q_proj"), queries, hidden, arch.qkv_bias);
        list.linear(at("self_attn.k_proj"), keys, hidden, arch.qkv_bias);
        list.linear(at("self_attn.v_proj"), keys, hidden, arch.qkv_bias);
        if arch.qk_norm {
            list.norm(at("self_attn.q_norm"), arch.head_dim);
            list.norm(at("self_attn.k_norm"), arch.head_dim);
        }
        list.linear(at("self_attn.o_proj"), hidden, queries, arch.output_bias);
        // In Gemma 2 this name is the norm after attention; elsewhere, the one before the feed-forward part.
        list.norm(at("post_attention_layernorm"), hidden);
        if arch.post_norms {
            list.norm(at("pre_feedforward_layernorm"), hidden);
        }
        list.linear(at("mlp.gate_proj"), wide, hidden, arch.mlp_bias);
        list.linear(at("mlp.up_proj"), wide, hidden, arch.mlp_bias);
        list.linear(at("mlp.down_proj"), hidden, wide, arch.mlp_bias);
        if arch.post_norms {
            list.norm(at("post_feedforward_layernorm"), hidden);
        }
    }
    list.norm("model.norm".to_owned(), hidden);
    if !arch.tie_embeddings {
        list.linear("lm_head".to_owned(), arch.vocab_size, hidden, false);
    }
    list.0
}
