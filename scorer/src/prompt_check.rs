//! Which prompts a preference model takes, known from its folder before the first is answered.

use std::path::Path;

use selfplay_records::Prompt;

use crate::{KindSettings, ScoreError};

/// What a kind of preference model asks of prompts.
pub trait PromptCheck {
    /// That the model reads this prompt and an answer to it.
    ///
    /// # Errors
    /// A prompt without text, or one that its chat template refuses; a model without a chat template or an end token.
    fn check(&self, prompt: &Prompt) -> Result<(), ScoreError>;

    /// Whether its chat template may print the day.
    fn reads_clock(&self) -> bool;
}

/// The check of the preference model in `folder`; no weights are read.
///
/// # Errors
/// A tokenizer or a chat template that does not load.
pub fn prompt_check(folder: &Path, kind: &KindSettings) -> Result<Box<dyn PromptCheck>, ScoreError> {
    kind.prompt_check(folder)
}
