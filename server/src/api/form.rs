//! What differs between completions and chat completions: how a body is read, and how an answer is written.

use std::sync::Arc;

use selfplay_sampler::{Request, StopRule};
use serde_json::Value;

use super::answer::ShownToken;
use super::fields::BodyFields;
use super::generation::RequestOptions;
use super::token_text::TokenTexts;
use crate::error::ApiResult;
use crate::limits::ServerLimits;
use crate::worker::{PolicyHandle, PolicyShape};

/// A prompt in tokens, and its text where the client gave text.
pub(crate) struct PromptTokens {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: Option<String>,
}

/// A prompt that a worker can be asked.
pub(crate) struct PreparedPrompt {
    pub(crate) request: Request,
    /// The prompt's text where it is to be echoed.
    pub(crate) echo: Option<String>,
}

/// A request that was read and found right.
pub(crate) struct PreparedRequest<F> {
    pub(crate) policy: Arc<PolicyHandle>,
    pub(crate) options: RequestOptions,
    pub(crate) stop: Arc<StopRule>,
    pub(crate) prompts: Vec<PreparedPrompt>,
    pub(crate) form: F,
}

/// A part of a response, or all of it.
pub(crate) struct TextPiece<'a> {
    /// Text that is to be shown.
    pub(crate) text: String,
    /// Tokens that came since the last piece.
    pub(crate) tokens: &'a [ShownToken],
    /// Characters of the response before this piece.
    pub(crate) offset: usize,
}

/// One of the two endpoints.
pub(crate) trait AnswerForm: Sized + Send + Sync + 'static {
    /// Its path, for the metrics.
    const PATH: &'static str;
    /// Begins the ids of its answers.
    const ID: &'static str;
    /// `object` of a whole answer.
    const OBJECT: &'static str;
    /// `object` of a part of one.
    const CHUNK: &'static str;
    /// Fields that bound a response's tokens.
    const MAX_TOKENS: &'static [&'static str];

    /// Reads the fields that are its own, the prompts among them.
    ///
    /// # Errors
    /// A field that is wrong, a prompt that cannot be encoded.
    fn read(fields: &mut BodyFields, policy: &PolicyShape) -> ApiResult<(Self, Vec<PromptTokens>)>;

    /// Puts its defaults into the options.
    fn complete(&self, options: &mut RequestOptions, limits: &ServerLimits) -> ApiResult<()>;

    /// So many of the most likely tokens at every place; `None` where no log-probs are wanted.
    fn top(&self) -> Option<usize>;

    /// Whether the prompt belongs to the answer.
    fn echoes(&self) -> bool;

    /// A choice of a whole answer: `prompt` before `piece` where the prompt is echoed.
    fn choice(
        &self,
        prompt: Option<&EchoedPrompt<'_>>,
        piece: &TextPiece<'_>,
        texts: &TokenTexts<'_>,
    ) -> Value;

    /// What a stream begins a choice with, before any token.
    fn opening(&self, prompt: Option<&EchoedPrompt<'_>>, texts: &TokenTexts<'_>) -> Option<Value>;

    /// A choice of a stream's chunk.
    fn delta(&self, piece: &TextPiece<'_>, texts: &TokenTexts<'_>) -> Value;
}

/// A prompt as part of an answer.
pub(crate) struct EchoedPrompt<'a> {
    pub(crate) text: &'a str,
    pub(crate) ids: &'a [u32],
    /// Of its tokens from the second on, where log-probs are wanted.
    pub(crate) tokens: &'a [ShownToken],
}
