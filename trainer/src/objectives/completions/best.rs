//! The best responses as examples of supervised fine-tuning.

use selfplay_records::Completion;

use super::completion_tokens;
use crate::objectives::SftExample;
use crate::turn::TurnRules;
use crate::{LossTokens, TrainError};

/// A row's response after its prompt, to be imitated.
///
/// # Errors
/// A row that has no tokens, with its name.
pub fn best_example(
    row: usize,
    completion: &Completion,
    rules: TurnRules<'_>,
    loss_tokens: LossTokens,
) -> Result<SftExample, TrainError> {
    let tokens = completion_tokens(row, completion, rules)?;
    let first = match loss_tokens {
        LossTokens::Responses => tokens.prompt.len(),
        LossTokens::All => 0,
    };
    let ids = [tokens.prompt, tokens.response].concat();
    let spans = std::iter::once(first..ids.len()).collect();
    Ok(SftExample { name: tokens.name, ids, spans })
}
