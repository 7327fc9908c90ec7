//! The architectures that are read from GGUF, and what llama.cpp's converter changes in each one's weights.

/// An architecture under GGUF's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GgufArchitecture {
    /// Llama, and all that computes as it does (Mistral, SmolLM 1 and 2, …).
    Llama,
    Qwen2,
    Qwen3,
    Gemma,
    Gemma2,
    Gemma3,
    Phi3,
    Olmo2,
    SmolLm3,
}

impl GgufArchitecture {
    const ALL: [Self; 9] = [
        Self::Llama,
        Self::Qwen2,
        Self::Qwen3,
        Self::Gemma,
        Self::Gemma2,
        Self::Gemma3,
        Self::Phi3,
        Self::Olmo2,
        Self::SmolLm3,
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|architecture| architecture.name() == name)
    }

    pub(super) fn list() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// `general.architecture`, and the first part of the keys of its sizes.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma => "gemma",
            Self::Gemma2 => "gemma2",
            Self::Gemma3 => "gemma3",
            Self::Phi3 => "phi3",
            Self::Olmo2 => "olmo2",
            Self::SmolLm3 => "smollm3",
        }
    }

    /// `model_type` of config.json.
    pub(super) fn model_type(self) -> &'static str {
        match self {
            Self::Gemma3 => "gemma3_text",
            other => other.name(),
        }
    }

    /// Whether the rows of queries and keys stand in pairs that are turned together (2i and 2i + 1 of a head), where a
    /// folder has the two halves of a head (i and i + d/2).
    pub(super) fn has_paired_rows(self) -> bool {
        matches!(self, Self::Llama | Self::SmolLm3)
    }

    /// Whether the factors of norms are stored as what they multiply by, 1 + w, where a folder has w.
    pub(super) fn has_whole_norms(self) -> bool {
        matches!(self, Self::Gemma | Self::Gemma2 | Self::Gemma3)
    }

    /// Whether there is a norm before the feed-forward part besides the one after attention.
    pub(super) fn has_four_norms(self) -> bool {
        matches!(self, Self::Gemma2 | Self::Gemma3)
    }
}
