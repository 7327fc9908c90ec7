//! What can go wrong while sampling, and whose fault it is.

use selfplay_model::ModelError;
use selfplay_records::{HasKind, Kind, Problems};
use thiserror::Error;

/// An error of the sampler. Each message has what is wrong, where, and what would be right.
#[derive(Debug, Error)]
pub enum SampleError {
    /// One or more settings are out of range.
    #[error("{0}")]
    Settings(Problems),
    /// A prompt without a single token.
    #[error("prompt {prompt_id:?}: it has no tokens; a prompt needs at least one")]
    EmptyPrompt {
        /// The prompt.
        prompt_id: String,
    },
    /// A prompt that leaves no room in the model's context.
    #[error(
        "prompt {prompt_id:?}: {length} tokens leave no room for a response in the model's context of {context}; \
         at most {} tokens fit, shorten it or leave it out",
        context.saturating_sub(1)
    )]
    PromptTooLong {
        /// The prompt.
        prompt_id: String,
        /// Its tokens.
        length: usize,
        /// The model's positions.
        context: usize,
    },
    /// A token id that the model does not have.
    #[error(
        "prompt {prompt_id:?}: prompt_ids[{position}] is {id}, but the model's vocabulary ends at {}",
        vocab_size.saturating_sub(1)
    )]
    TokenOutside {
        /// The prompt.
        prompt_id: String,
        /// 0-based place within the prompt.
        position: usize,
        /// The id found there.
        id: u32,
        /// The model's number of tokens.
        vocab_size: usize,
    },
    /// A logit is NaN or +inf, or all are -inf.
    #[error(
        "prompt {prompt_id:?}: the model's logits for token {step} of the response are not finite; \
         its weights may be damaged or its dtype too narrow"
    )]
    NotFinite {
        /// The prompt.
        prompt_id: String,
        /// 0-based token of the response that was to be drawn.
        step: usize,
    },
    /// The caller's progress function stopped the call.
    #[error("sampling was interrupted")]
    Interrupted,
    /// A backend or the schedule violated its contract: a defect of the program.
    #[error("sampling stopped by an internal error: {what}")]
    Internal {
        /// What was found.
        what: String,
    },
    /// The model or its tokenizer.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl HasKind for SampleError {
    fn kind(&self) -> Kind {
        match self {
            Self::Settings(_)
            | Self::EmptyPrompt { .. }
            | Self::PromptTooLong { .. }
            | Self::TokenOutside { .. } => Kind::Input,
            Self::NotFinite { .. } => Kind::Machine,
            Self::Internal { .. } => Kind::Defect,
            Self::Interrupted => Kind::Stopped,
            Self::Model(source) => source.kind(),
        }
    }
}

impl SampleError {
    /// A defect, described.
    pub(crate) fn internal(what: impl Into<String>) -> Self {
        Self::Internal { what: what.into() }
    }
}

impl From<candle_core::Error> for SampleError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}
