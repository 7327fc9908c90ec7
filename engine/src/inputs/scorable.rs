//! Prompts that the preference model accepts, determined before the first is answered: its chat template may refuse what the
//! policy's accepts (a system turn, in Gemma's).

use rayon::prelude::*;
use selfplay_records::Prompt;
use selfplay_scorer::PromptCheck;

use crate::error::EngineError;
use crate::recipe::OnBadPromptRule;

/// What the preference model takes.
pub(crate) struct Scorable<'a>(pub(crate) &'a dyn PromptCheck);

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
        let mut checked =
            prompts.par_iter().map(|prompt| self.0.check(prompt)).collect::<Vec<_>>().into_iter();
        prompts.retain(|_| match checked.next() {
            Some(Ok(())) | None => true,
            Some(Err(error)) => {
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
