//! What an adapter's tensors are called in `adapter_model.safetensors`.

const PREFIX: &str = "base_model.model.";
const A: &str = ".lora_A.weight";
const B: &str = ".lora_B.weight";
const MAGNITUDE: &str = ".lora_magnitude_vector";
/// Where PEFT keeps a module that has factors: its bias is written under this name.
const BASE_LAYER: &str = ".base_layer";

/// What one tensor of the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeldTensor {
    /// The first factor of the module at this path.
    A(String),
    /// The second one.
    B(String),
    /// The lengths of its rows.
    Magnitude(String),
    /// A tensor of the base, by its name there.
    Base(String),
}

impl HeldTensor {
    /// What the tensor of this name is; `None` where it is none of an adapter's.
    pub(super) fn of(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?;
        let path = |end: &str| rest.strip_suffix(end).map(str::to_owned);
        if let Some(path) = path(A) {
            return Some(Self::A(path));
        }
        if let Some(path) = path(B) {
            return Some(Self::B(path));
        }
        // Some versions end it with `.weight`.
        if let Some(path) = path(MAGNITUDE).or_else(|| path(&format!("{MAGNITUDE}.weight"))) {
            return Some(Self::Magnitude(path));
        }
        if rest.contains(".lora_") {
            return None;
        }
        let (module, leaf) = rest.rsplit_once('.')?;
        let module = module.strip_suffix(BASE_LAYER).unwrap_or(module);
        matches!(leaf, "weight" | "bias").then(|| Self::Base(format!("{module}.{leaf}")))
    }
}

/// The first factor's name.
pub(super) fn a(path: &str) -> String {
    format!("{PREFIX}{path}{A}")
}

/// The second factor's name.
pub(super) fn b(path: &str) -> String {
    format!("{PREFIX}{path}{B}")
}

/// The magnitude's name.
pub(super) fn magnitude(path: &str) -> String {
    format!("{PREFIX}{path}{MAGNITUDE}")
}

/// The name of a tensor of the base; `is_adapted`: its module has factors.
pub(super) fn base(name: &str, is_adapted: bool) -> String {
    match name.rsplit_once('.').filter(|_| is_adapted) {
        Some((module, leaf)) => format!("{PREFIX}{module}{BASE_LAYER}.{leaf}"),
        None => format!("{PREFIX}{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let path = "model.layers.3.self_attn.q_proj";
        assert_eq!(a(path), "base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight");
        for (name, held) in [
            (a(path), HeldTensor::A(path.to_owned())),
            (b(path), HeldTensor::B(path.to_owned())),
            (magnitude(path), HeldTensor::Magnitude(path.to_owned())),
            (format!("{}.weight", magnitude(path)), HeldTensor::Magnitude(path.to_owned())),
            (base("lm_head.weight", false), HeldTensor::Base("lm_head.weight".to_owned())),
            (base(&format!("{path}.bias"), true), HeldTensor::Base(format!("{path}.bias"))),
        ] {
            assert_eq!(HeldTensor::of(&name), Some(held), "{name}");
        }
        assert!(base(&format!("{path}.bias"), true).ends_with("q_proj.base_layer.bias"));
        for foreign in
            ["model.norm.weight", "base_model.model.x.lora_embedding_A", "base_model.model.x.lora_B.bias"]
        {
            assert_eq!(HeldTensor::of(foreign), None, "{foreign}");
        }
    }
}
