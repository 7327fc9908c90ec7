//! By what rule fresh factors begin.

/// How fresh factors begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdapterStart {
    /// As PEFT's `init_lora_weights = true`.
    #[default]
    Default,
    /// As PEFT's `"gaussian"`.
    Gaussian,
    /// As PEFT's `"pissa"`.
    Pissa,
}
