//! A completion's row as tokens: its ids where it has them, else its messages as described in [`crate::turn`].

use selfplay_records::Completion;

use crate::TrainError;
use crate::turn::{TurnRules, last_turn};

/// A prompt and a response to it.
pub(crate) struct CompletionTokens {
    /// Its name in error messages: the row, and the prompt's id.
    pub(crate) name: String,
    pub(crate) prompt: Vec<u32>,
    /// Its stop token included.
    pub(crate) response: Vec<u32>,
}

/// The tokens of a row, none of the two lists empty.
///
/// # Errors
/// A row without ids and without messages, or one whose template refuses it.
pub(crate) fn completion_tokens(
    row: usize,
    completion: &Completion,
    rules: TurnRules<'_>,
) -> Result<CompletionTokens, TrainError> {
    let name = match &completion.prompt_id {
        Some(id) => format!("completion {row} (prompt_id {id:?})"),
        None => format!("completion {row}"),
    };
    let (prompt, response) = match (&completion.prompt_ids, &completion.completion_ids) {
        (Some(prompt), Some(response)) => (prompt.clone(), response.clone()),
        _ => match (&completion.prompt, &completion.completion) {
            (Some(prompt), Some(reply)) => {
                let conversation: Vec<_> = prompt.iter().chain(reply).cloned().collect();
                let turn = last_turn(rules, &conversation, &name)?;
                (turn.prompt, turn.response)
            }
            _ => {
                return Err(TrainError::example(
                    name,
                    "neither ids nor messages",
                    "`prompt_ids` and `completion_ids`, or `prompt` and `completion`",
                ));
            }
        },
    };
    for (field, ids) in [("prompt", &prompt), ("completion", &response)] {
        if ids.is_empty() {
            return Err(TrainError::example(name, format!("no tokens in `{field}`"), "one token or more"));
        }
    }
    Ok(CompletionTokens { name, prompt, response })
}
