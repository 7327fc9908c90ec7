//! The stored modules of a model: their names, their shapes, what each is for. The one source of tensor names: reading,
//! random initialisation, the decoder's lookups and writing all follow it.
//!
//! A family says in data how its weights are stored. Queries, keys and values may be three matrices or one whose rows are
//! queries, then keys, then values (Phi-3's `qkv_proj`); gate and up may be two or one whose rows are gate, then up
//! (`gate_up_proj`): each is a list of modules whose outputs follow one another. A norm that a family lacks is `None`.

use super::{Architecture, QkNorm};

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

/// A linear map as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModuleSpec {
    /// Its Hugging Face name, e.g. `model.layers.0.self_attn.q_proj`.
    pub name: String,
    /// Rows of its weight.
    pub outputs: usize,
    /// Columns of its weight.
    pub inputs: usize,
    /// Whether it has a bias \[outputs].
    pub bias: bool,
}

impl ModuleSpec {
    /// The name of its weight [outputs, inputs].
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The name of its bias \[outputs], where it has one.
    pub fn bias(&self) -> Option<String> {
        self.bias.then(|| format!("{}.bias", self.name))
    }

    fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let shape = vec![self.outputs, self.inputs];
        let weight = TensorSpec { name: self.weight(), shape, kind: ParameterKind::Matrix };
        let bias =
            self.bias().map(|name| TensorSpec { name, shape: vec![self.outputs], kind: ParameterKind::Bias });
        std::iter::once(weight).chain(bias)
    }
}

/// A norm's factors as they are stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Norm {
    /// Its Hugging Face name, e.g. `model.layers.0.input_layernorm`.
    pub name: String,
    /// How many factors: the width of what it normalises.
    pub width: usize,
}

impl Norm {
    /// The name of its factors \[width].
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    fn tensor(&self) -> TensorSpec {
        TensorSpec { name: self.weight(), shape: vec![self.width], kind: ParameterKind::Norm }
    }
}

/// One layer's stored modules, by what they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LayerModules {
    /// Before attention.
    pub attention_norm: Option<Norm>,
    /// Their outputs, one module after the other: all queries, all keys, all values.
    pub qkv: Vec<ModuleSpec>,
    /// On queries: on each head or on all of a token, by its width.
    pub q_norm: Option<Norm>,
    /// On keys, as on queries.
    pub k_norm: Option<Norm>,
    /// From the attention's heads to the stream.
    pub output: ModuleSpec,
    /// On the attention's output, before it joins the stream.
    pub attention_post_norm: Option<Norm>,
    /// Before the feed-forward part.
    pub feed_forward_norm: Option<Norm>,
    /// Their outputs, one module after the other: the gate, then what it is multiplied with.
    pub gate_up: Vec<ModuleSpec>,
    /// From the feed-forward part to the stream.
    pub down: ModuleSpec,
    /// On the feed-forward part's output, before it joins the stream.
    pub feed_forward_post_norm: Option<Norm>,
}

impl LayerModules {
    /// The layer's tensors in the order of a forward pass.
    fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let norm = |norm: &Option<Norm>| norm.as_ref().map(Norm::tensor);
        norm(&self.attention_norm)
            .into_iter()
            .chain(self.qkv.iter().flat_map(ModuleSpec::tensors))
            .chain(norm(&self.q_norm))
            .chain(norm(&self.k_norm))
            .chain(self.output.tensors())
            .chain(norm(&self.attention_post_norm))
            .chain(norm(&self.feed_forward_norm))
            .chain(self.gate_up.iter().flat_map(ModuleSpec::tensors))
            .chain(self.down.tensors())
            .chain(norm(&self.feed_forward_post_norm))
    }
}

/// A model's stored modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Modules {
    /// The embedding [vocab, hidden].
    pub embedding: TensorSpec,
    /// Each layer's.
    pub layers: Vec<LayerModules>,
    /// Before the output head.
    pub final_norm: Norm,
    /// The output head; `None` where it is the embedding.
    pub head: Option<ModuleSpec>,
}

impl Modules {
    /// Every tensor, in the order of a forward pass.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        std::iter::once(self.embedding.clone())
            .chain(self.layers.iter().flat_map(LayerModules::tensors))
            .chain(std::iter::once(self.final_norm.tensor()))
            .chain(self.head.iter().flat_map(ModuleSpec::tensors))
            .collect()
    }

    /// Whether this is the matrix of a map in a block.
    pub fn is_of_block(&self, spec: &TensorSpec) -> bool {
        spec.kind == ParameterKind::Matrix && !self.is_of_head(&spec.name)
    }

    /// Whether this is a tensor of an output head of its own, which a preference model does without.
    pub fn is_of_head(&self, name: &str) -> bool {
        self.head.as_ref().is_some_and(|head| head.tensors().any(|tensor| tensor.name == name))
    }
}

/// The modules under the names that most families use, whose layers are made by `layer`.
pub(super) fn modules(
    a: &Architecture,
    layer: impl Fn(&Architecture, &LayerNames) -> LayerModules,
) -> Modules {
    Modules {
        embedding: TensorSpec {
            name: "model.embed_tokens.weight".to_owned(),
            shape: vec![a.vocab_size, a.hidden_size],
            kind: ParameterKind::Embedding,
        },
        layers: (0..a.num_layers).map(|number| layer(a, &LayerNames(number))).collect(),
        final_norm: Norm { name: "model.norm".to_owned(), width: a.hidden_size },
        head: (!a.tie_embeddings).then(|| ModuleSpec {
            name: "lm_head".to_owned(),
            outputs: a.vocab_size,
            inputs: a.hidden_size,
            bias: false,
        }),
    }
}

/// A layer as Llama names and orders its parts, with the biases and the norms of queries and keys that the
/// architecture has.
pub(super) fn layer(a: &Architecture, names: &LayerNames) -> LayerModules {
    let (hidden, wide) = (a.hidden_size, a.intermediate_size);
    let queries = a.num_heads * a.head_dim;
    let keys = a.num_kv_heads * a.head_dim;
    let qk_norm = |part, all_heads| {
        a.qk_norm.map(|norm| match norm {
            QkNorm::PerHead => names.norm(part, a.head_dim),
            QkNorm::AllHeads => names.norm(part, all_heads),
        })
    };
    LayerModules {
        attention_norm: Some(names.norm("input_layernorm", hidden)),
        qkv: vec![
            names.module("self_attn.q_proj", queries, hidden, a.qkv_bias),
            names.module("self_attn.k_proj", keys, hidden, a.qkv_bias),
            names.module("self_attn.v_proj", keys, hidden, a.qkv_bias),
        ],
        q_norm: qk_norm("self_attn.q_norm", queries),
        k_norm: qk_norm("self_attn.k_norm", keys),
        output: names.module("self_attn.o_proj", hidden, queries, a.output_bias),
        attention_post_norm: None,
        // After attention in the stream's order, not on the attention's output.
        feed_forward_norm: Some(names.norm("post_attention_layernorm", hidden)),
        gate_up: vec![
            names.module("mlp.gate_proj", wide, hidden, a.mlp_bias),
            names.module("mlp.up_proj", wide, hidden, a.mlp_bias),
        ],
        down: names.module("mlp.down_proj", hidden, wide, a.mlp_bias),
        feed_forward_post_norm: None,
    }
}

/// The names of one layer's parts: `model.layers.N.PART`.
pub(super) struct LayerNames(usize);

impl LayerNames {
    pub(super) fn norm(&self, part: &str, width: usize) -> Norm {
        Norm { name: self.name(part), width }
    }

    pub(super) fn module(&self, part: &str, outputs: usize, inputs: usize, bias: bool) -> ModuleSpec {
        ModuleSpec { name: self.name(part), outputs, inputs, bias }
    }

    fn name(&self, part: &str) -> String {
        format!("model.layers.{}.{part}", self.0)
    }
}
