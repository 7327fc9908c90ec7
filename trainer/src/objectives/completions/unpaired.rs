//! Unpaired responses as examples: each beside a response that answers another prompt, from which KTO estimates its divergence.
//!
//! The example of row i has the response of the row half of the data further on (around its end), or of the first one after that whose
//! prompt is another: neighbours, which may be of one prompt, get different ones, and they are the same in every epoch.

use selfplay_records::Completion;

use super::{CompletionTokens, completion_tokens};
use crate::loss::PreferenceTarget;
use crate::objectives::TokenPair;
use crate::turn::TurnRules;
use crate::{LossKind, TrainError};

/// Rows as examples: `chosen` is a row's own response, `rejected` that of another prompt.
///
/// # Errors
/// A row without tokens or without a label, with its name; data of a single prompt.
pub fn unpaired_examples(
    rows: &[Completion],
    rules: TurnRules<'_>,
    loss: LossKind,
) -> Result<Vec<TokenPair>, TrainError> {
    let tokens: Vec<CompletionTokens> = rows
        .iter()
        .enumerate()
        .map(|(row, completion)| completion_tokens(row, completion, rules))
        .collect::<Result<_, _>>()?;
    let bos = rules.codec.tokenizer.bos_id();
    let mut examples = Vec::with_capacity(rows.len());
    for (place, own) in tokens.iter().enumerate() {
        let Some(desirable) = rows[place].label else {
            let want =
                format!("true or false: loss = \"{loss}\" learns from desirable and undesirable responses");
            return Err(TrainError::example(own.name.clone(), "no `label`", want));
        };
        let Some(other) = other_prompt(&tokens, place) else {
            return Err(TrainError::Data {
                problem: format!("all {} rows have the same prompt", tokens.len()),
                want: format!(
                    "two prompts or more: loss = \"{loss}\" estimates a divergence from responses to other prompts"
                ),
            });
        };
        examples.push(TokenPair {
            name: own.name.clone(),
            prompt: own.prompt.clone(),
            prompt_has_bos: bos.is_some() && own.prompt.first().copied() == bos,
            chosen: own.response.clone(),
            rejected: tokens[other].response.clone(),
            target: PreferenceTarget { desirable: Some(desirable), ..PreferenceTarget::default() },
            ..TokenPair::default()
        });
    }
    Ok(examples)
}

/// The row whose response stands beside that of the row at `place`.
fn other_prompt(tokens: &[CompletionTokens], place: usize) -> Option<usize> {
    let count = tokens.len();
    let from = place + count / 2;
    (0..count).map(|step| (from + step) % count).find(|&other| tokens[other].prompt != tokens[place].prompt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(prompts: &[u32]) -> Vec<CompletionTokens> {
        let one =
            |&prompt: &u32| CompletionTokens { name: String::new(), prompt: vec![prompt], response: vec![9] };
        prompts.iter().map(one).collect()
    }

    #[test]
    fn the_other_response_is_of_another_prompt_and_each_is_taken_once_where_it_can_be() {
        let of = |prompts: &[u32]| {
            let tokens = tokens(prompts);
            (0..prompts.len()).map(|place| other_prompt(&tokens, place)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 1, 2, 2]), [Some(2), Some(3), Some(0), Some(1)]);
        // From row 1 (the same prompt) on to row 2; rows 1 and 2 begin past themselves.
        assert_eq!(of(&[1, 1, 2]), [Some(2), Some(2), Some(0)]);
        assert_eq!(of(&[1, 1]), [None, None]);
        assert_eq!(of(&[1]), [None]);
    }
}
