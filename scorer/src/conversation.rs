//! The turns that a preference model reads of a prompt.

use selfplay_records::{Message, Prompt};

use crate::ScoreError;

/// The prompt's turns; of a row with both forms of text, those of `messages`.
///
/// # Errors
/// A prompt without text, with its `prompt_id`.
pub(crate) fn conversation(prompt: &Prompt) -> Result<Vec<Message>, ScoreError> {
    match (&prompt.messages, &prompt.prompt) {
        (Some(messages), _) => Ok(messages.clone()),
        (None, Some(text)) => Ok(vec![Message::user(text.as_str())]),
        (None, None) => Err(ScoreError::NoText { prompt_id: prompt.prompt_id.clone() }),
    }
}
