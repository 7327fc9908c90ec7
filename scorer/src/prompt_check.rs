//! Which prompts a preference model accepts, determined from its folder before the first is answered.

use selfplay_records::Prompt;

use crate::conversation::conversation;
use crate::{KindSettings, ModelPlace, ScoreError};

/// The requirements of a preference model on prompts.
pub trait PromptCheck: Send + Sync {
    /// Checks that the model accepts this prompt with an answer.
    ///
    /// # Errors
    /// A prompt without text, or one that its chat template refuses; a model without a chat template or an end token.
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError>;

    /// Whether its chat template may print the day.
    fn reads_clock(&self) -> bool;
}

/// Any prompt with text will do.
pub(crate) fn any_text() -> Box<dyn PromptCheck> {
    Box::new(AnyText)
}

struct AnyText;

impl PromptCheck for AnyText {
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError> {
        conversation(prompt).map(drop)
    }

    fn reads_clock(&self) -> bool {
        false
    }
}

/// What all of several models accept.
pub(crate) fn all_of(checks: Vec<Box<dyn PromptCheck>>) -> Box<dyn PromptCheck> {
    Box::new(AllOf(checks))
}

struct AllOf(Vec<Box<dyn PromptCheck>>);

impl PromptCheck for AllOf {
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError> {
        self.0.iter().try_for_each(|one| one.check(prompt))
    }

    fn reads_clock(&self) -> bool {
        self.0.iter().any(|one| one.reads_clock())
    }
}

/// The check of the preference model in a folder, or of one that needs none; no weights are read.
///
/// # Errors
/// A tokenizer or a chat template that does not load.
pub fn prompt_check<'a>(
    place: impl Into<ModelPlace<'a>>,
    kind: &KindSettings,
) -> Result<Box<dyn PromptCheck>, ScoreError> {
    kind.prompt_check(place.into())
}
