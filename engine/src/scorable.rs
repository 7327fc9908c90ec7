//! Prompts that the preference model takes, found out before the first is answered: its chat template may refuse what the
//! policy's accepts (a system turn, in Gemma's).

use std::path::Path;

use selfplay_model::Codec;
use selfplay_records::Prompt;
use selfplay_scorer::check_prompt;

use crate::error::EngineError;
use crate::recipe::OnBadPromptRule;

/// The preference model's tokenizer and template, with its folder.
pub(crate) struct Scorable<'a> {
    pub(crate) codec: &'a Codec,
    pub(crate) folder: &'a Path,
}

impl Scorable<'_> {
    /// Keeps the prompts that the preference model takes, and counts the others; `place` is where they came from.
    ///
    /// # Errors
    /// The first prompt that it does not take, where the rule is not to skip; a preference model without a template.
    pub(crate) fn keep(
        &self,
        prompts: &mut Vec<Prompt>,
        rule: OnBadPromptRule,
        place: &str,
    ) -> Result<usize, EngineError> {
        let before = prompts.len();
        let mut wrong = None;
        prompts.retain(|prompt| match check_prompt(self.codec, self.folder, prompt) {
            Ok(()) => true,
            Err(error) => {
                // What is wrong with the model is wrong with every row: no reason to skip them all.
                if rule == OnBadPromptRule::Error || !error.is_of_row() {
                    wrong.get_or_insert(error);
                }
                false
            }
        });
        match wrong {
            None => Ok(before - prompts.len()),
            Some(error) if !error.is_of_row() => Err(error.into()),
            Some(error) => Err(EngineError::Input(format!(
                "{place}: the preference model cannot read this prompt: {error}"
            ))),
        }
    }
}
