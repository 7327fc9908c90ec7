//! What can go wrong while candidates are compared.

use std::path::PathBuf;

use selfplay_client::{ClientError, CommandFailure};
use selfplay_model::ModelError;
use selfplay_records::{HasKind, Kind, Problems};

/// An error of the scorer: what, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// Wrong values in `[score]`, all of them.
    #[error("{0}")]
    Settings(Problems),
    /// No value head in the weights.
    #[error(
        "{}: this is a policy, not a preference model: no value_head.weight (nor score.weight) in its \
         safetensors files; give a folder with value_head.weight [d, hidden] (d = 1: bradley-terry, d even: gpm), such as one that \
         `selfplay train-preference` writes", folder.display()
    )]
    NotPreferenceModel {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A value head whose size is neither 1 nor even.
    #[error(
        "{}: odd head: value_head.weight has {rows} rows; expected 1 (bradley-terry) or an even number (gpm); an \
         odd number of 3 or more is read with score.kind = \"hrc\"",
        folder.display()
    )]
    OddHead {
        /// The model's folder.
        folder: PathBuf,
        /// Rows of `value_head.weight`.
        rows: usize,
    },
    /// A value head that does not belong to the kind which the recipe names.
    #[error(
        "{}: score.kind = \"{kind}\", but value_head.weight has {rows} rows; gpm needs an even number, bradley-terry \
         needs 1, hrc an odd number of 3 or more; score.kind = \"auto\" takes what the weights are", folder.display()
    )]
    HeadOfOtherKind {
        /// The model's folder.
        folder: PathBuf,
        /// The kind that the recipe names.
        kind: &'static str,
        /// Rows of `value_head.weight`.
        rows: usize,
    },
    /// A prompt head that does not fit the value head.
    #[error(
        "{}: prompt_head.weight has {rows} rows; expected {want}, half the rows of value_head.weight", folder.display()
    )]
    PromptHead {
        /// The model's folder.
        folder: PathBuf,
        /// Rows of `prompt_head.weight`.
        rows: usize,
        /// d/2.
        want: usize,
    },
    /// Advantages by axis of a model that has none.
    #[error(
        "{}: score.advantages = \"per-axis\" takes the axes of a gpm, and this is a bradley-terry or a hrc model, which has a reward; \
         use a gpm, or leave the key out", folder.display()
    )]
    NoAxes {
        /// The model's folder.
        folder: PathBuf,
    },
    /// No chat template: raw concatenation would give scores that look right and are not.
    #[error(
        "{}: the preference model has no chat template (tokenizer_config.json, chat_template.jinja); give one with \
         score.chat_template = \"FILE\"", folder.display()
    )]
    NoTemplate {
        /// The model's folder.
        folder: PathBuf,
    },
    /// The tokenizer names no end token.
    #[error("{}: tokenizer_config.json has no eos_token in the vocabulary; a response is read at that token", folder.display())]
    NoEndToken {
        /// The model's folder.
        folder: PathBuf,
    },
    /// A row that holds its prompt as token ids only.
    #[error(
        "candidates of prompt_id {prompt_id:?}: only prompt_ids; a preference model has its own tokenizer and needs \
         the text: give the row `prompt` or `messages`"
    )]
    NoText {
        /// The row's prompt.
        prompt_id: String,
    },
    /// A conversation that the template or the tokenizer refuses.
    #[error("candidates of prompt_id {prompt_id:?}, {part}: {source}")]
    Row {
        /// The row's prompt.
        prompt_id: String,
        /// `the prompt` or `response N`.
        part: String,
        /// The error of the template or the tokenizer.
        #[source]
        source: Box<ModelError>,
    },
    /// A conversation of no tokens at all.
    #[error(
        "candidates of prompt_id {prompt_id:?}, response {response}: the chat template gives an empty text"
    )]
    Empty {
        /// The row's prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
    },
    /// An embedding or a score that is not a finite number.
    #[error(
        "prompt_id {prompt_id:?}, response {response}: the preference model's {what} is not finite; check its weights, \
         or score.dtype = \"f32\" if they are computed in 16 bits"
    )]
    NotFinite {
        /// The row's prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
        /// `embedding`, `prompt gate` or `score`.
        what: &'static str,
    },
    /// A service that gives no log-probs.
    #[error(
        "score.endpoint {endpoint}: its answers have no log-probs, and score.verdict = \"logprobs\" reads them; set score.verdict = \"text\""
    )]
    NoLogProbs {
        /// Its address.
        endpoint: String,
    },
    /// A judge of ours whose answers are texts, where nobody writes them.
    #[error(
        "score.verdict = \"text\": a judge in this process writes its answers in score, eval-preference and runs, and not as the \
         member of an ensemble; set score.verdict = \"logprobs\""
    )]
    NoWriter,
    /// A judge that could not write.
    #[error("score.kind = \"judge\": {source}")]
    Writer {
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whose fault it is.
        kind: Kind,
    },
    /// A service that does not answer.
    #[error("score.endpoint: {0}")]
    Service(#[from] ClientError),
    /// The file of answers that were computed here does not open, read or grow.
    #[error("{0}")]
    Kept(#[source] ClientError),
    /// A length penalty in tokens, and a response without token ids.
    #[error(
        "candidates of prompt_id {prompt_id:?}, response {response}: no ids, and score.length_penalty counts the policy's tokens; \
         give the rows `ids`, as `selfplay sample` writes them"
    )]
    NoIds {
        /// The row's prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
    },
    /// A kind that is loaded from a folder, and none was named.
    #[error("score.kind = \"{kind}\": a model's folder is wanted: name one with score.model")]
    NoFolder {
        /// The kind.
        kind: &'static str,
    },
    /// A program of the user's that cannot be started.
    #[error("{0}")]
    NoProgram(Box<CommandFailure>),
    /// A program of the user's that ended early, was silent or answered wrongly.
    #[error("{0}")]
    Command(Box<CommandFailure>),
    /// The decoder, the tokenizer or the weights.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl ScoreError {
    /// Whether the error is about one row, so that others may be usable.
    pub fn is_of_row(&self) -> bool {
        matches!(self, Self::Row { .. } | Self::NoText { .. } | Self::Empty { .. })
    }
}

impl HasKind for ScoreError {
    fn kind(&self) -> Kind {
        match self {
            Self::NotFinite { .. } | Self::Command(_) | Self::NoLogProbs { .. } => Kind::Machine,
            Self::Writer { kind, .. } => *kind,
            Self::Service(source) | Self::Kept(source) => source.kind(),
            Self::Row { source, .. } => source.kind(),
            Self::Model(source) => source.kind(),
            Self::Settings(_)
            | Self::NotPreferenceModel { .. }
            | Self::OddHead { .. }
            | Self::HeadOfOtherKind { .. }
            | Self::PromptHead { .. }
            | Self::NoAxes { .. }
            | Self::NoTemplate { .. }
            | Self::NoEndToken { .. }
            | Self::NoText { .. }
            | Self::NoIds { .. }
            | Self::NoWriter
            | Self::NoFolder { .. }
            | Self::NoProgram(_)
            | Self::Empty { .. } => Kind::Input,
        }
    }
}

impl From<candle_core::Error> for ScoreError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

impl From<Box<CommandFailure>> for ScoreError {
    fn from(failure: Box<CommandFailure>) -> Self {
        if failure.kind == Kind::Input { Self::NoProgram(failure) } else { Self::Command(failure) }
    }
}
