//! Unpaired responses as examples: each beside a response that answers another prompt, from which KTO estimates its divergence.
//!
//! The example of row i has the response of the row half of the data further on (around its end), or of the first one after that whose
//! prompt is another: neighbours, which may be of one prompt, get different ones, and they are the same in every epoch.

use std::path::Path;

use selfplay_records::Completion;

use super::{CompletionTokens, completion_tokens};
use crate::loss::PreferenceTarget;
use crate::objectives::{PairData, TokenPair};
use crate::turn::TurnRules;
use crate::{LossKind, TrainError};

/// Rows as examples: `chosen` is a row's own response, `rejected` that of another prompt. `folder` is where tokens go that do not fit into
/// memory.
///
/// # Errors
/// A row without tokens or without a label, with its name; data of a single prompt; a file that cannot be written.
pub fn unpaired_examples(
    rows: &[Completion],
    rules: TurnRules<'_>,
    loss: LossKind,
    folder: &Path,
) -> Result<PairData, TrainError> {
    let bos = rules.codec.tokenizer.bos_id();
    let mut examples = PairData::new(folder);
    for (place, row) in rows.iter().enumerate() {
        let CompletionTokens { name, prompt, response } = completion_tokens(place, row, rules)?;
        let Some(desirable) = row.label else {
            let want =
                format!("true or false: loss = \"{loss}\" learns from desirable and undesirable responses");
            return Err(TrainError::example(name, "no `label`", want));
        };
        let mut rejected = None;
        for other in places_after(place, rows.len()) {
            let other = completion_tokens(other, &rows[other], rules)?;
            if other.prompt != prompt {
                rejected = Some(other.response);
                break;
            }
        }
        let Some(rejected) = rejected else {
            return Err(TrainError::Data {
                problem: format!("all {} rows have the same prompt", rows.len()),
                want: format!(
                    "two prompts or more: loss = \"{loss}\" estimates a divergence from responses to other prompts"
                ),
            });
        };
        examples.push(TokenPair {
            name,
            prompt_has_bos: bos.is_some() && prompt.first().copied() == bos,
            prompt,
            chosen: response,
            rejected,
            target: PreferenceTarget {
                desirable: Some(desirable),
                score: row.score,
                ..PreferenceTarget::default()
            },
            ..TokenPair::default()
        })?;
    }
    Ok(examples)
}

/// The places that are looked at for another prompt, from half of the data further on.
fn places_after(place: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |step| (place + count / 2 + step) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_response_is_of_another_prompt_and_each_is_taken_once_where_it_can_be() {
        let of = |prompts: &[u32]| {
            let other = |place: usize| {
                places_after(place, prompts.len()).find(|&other| prompts[other] != prompts[place])
            };
            (0..prompts.len()).map(other).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 1, 2, 2]), [Some(2), Some(3), Some(0), Some(1)]);
        // From row 1 (the same prompt) on to row 2; rows 1 and 2 begin past themselves.
        assert_eq!(of(&[1, 1, 2]), [Some(2), Some(2), Some(0)]);
        assert_eq!(of(&[1, 1]), [None, None]);
        assert_eq!(of(&[1]), [None]);
    }
}
