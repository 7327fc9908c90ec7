//! The values of keys that a config.json leaves out.

/// What a family's configuration class in transformers assumes where a key is absent, and how it names some.
pub(super) struct Defaults {
    /// Absent in some published files of the family; `None` where it must be there.
    pub(super) vocab_size: Option<usize>,
    /// As `vocab_size`.
    pub(super) heads: Option<usize>,
    pub(super) kv_heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    pub(super) max_positions: usize,
    pub(super) rms_norm_eps: f64,
    pub(super) rope_theta: f64,
    /// Of the sliding layers, of a family whose layer types have a rotary embedding each.
    pub(super) sliding_rope_theta: Option<f64>,
    /// A part of each head may be left unrotated.
    pub(super) partial_rotary: bool,
    /// The context before its extension, of a family whose files may have longrope.
    pub(super) longrope_original: Option<usize>,
    pub(super) tie_embeddings: bool,
    pub(super) activation: &'static str,
    /// The key that the activation is written under; both are read.
    pub(super) activation_key: &'static str,
    /// An activation `gelu` means its tanh form.
    pub(super) gelu_is_tanh: bool,
}

impl Defaults {
    /// Those that most families share.
    pub(super) const LLAMA: Self = Self {
        vocab_size: None,
        heads: None,
        kv_heads: None,
        head_dim: None,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        sliding_rope_theta: None,
        partial_rotary: false,
        longrope_original: None,
        tie_embeddings: false,
        activation: "silu",
        activation_key: "hidden_act",
        gelu_is_tanh: false,
    };
}
