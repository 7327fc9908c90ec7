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

/// Unpaired responses, given row by row: `chosen` of an example is a row's own response, `rejected` that of another prompt.
pub struct UnpairedBuilder<'a> {
    rules: TurnRules<'a>,
    loss: LossKind,
    /// Without rejected responses, which are known once all rows are there.
    examples: PairData,
}

impl<'a> UnpairedBuilder<'a> {
    /// No rows yet; `folder` is where tokens go that do not fit into memory.
    pub fn new(rules: TurnRules<'a>, loss: LossKind, folder: &Path) -> Self {
        Self { rules, loss, examples: PairData::new(folder) }
    }

    /// Adds a row of this number.
    ///
    /// # Errors
    /// A row without tokens or without a label, with its name; a file that cannot be written.
    pub fn push(&mut self, row: usize, completion: &Completion) -> Result<(), TrainError> {
        let CompletionTokens { name, prompt, response } = completion_tokens(row, completion, self.rules)?;
        let loss = self.loss;
        let Some(desirable) = completion.label else {
            let want =
                format!("true or false: loss = \"{loss}\" learns from desirable and undesirable responses");
            return Err(TrainError::example(name, "no `label`", want));
        };
        let bos = self.rules.codec.tokenizer.bos_id();
        self.examples.push(TokenPair {
            name,
            prompt_has_bos: bos.is_some() && prompt.first().copied() == bos,
            prompt,
            chosen: response,
            target: PreferenceTarget {
                desirable: Some(desirable),
                score: completion.score,
                ..PreferenceTarget::default()
            },
            ..TokenPair::default()
        })
    }

    /// The examples, each with the response of another prompt.
    ///
    /// # Errors
    /// Rows of a single prompt; a file that cannot be read.
    pub fn finish(self) -> Result<PairData, TrainError> {
        let Self { mut examples, loss, .. } = self;
        let count = examples.len();
        match others(count, |one, other| examples.have_same_prompt(one, other))? {
            Some(others) => examples.reject_chosen_of(&others),
            None => {
                return Err(TrainError::Data {
                    problem: format!("all {count} rows have the same prompt"),
                    want: format!(
                        "two prompts or more: loss = \"{loss}\" estimates a divergence from responses to other prompts"
                    ),
                });
            }
        }
        Ok(examples)
    }
}

/// For each row the first one from half of the data further on whose prompt is another; `None` where all prompts are the same.
fn others(
    count: usize,
    is_same: impl Fn(usize, usize) -> Result<bool, TrainError>,
) -> Result<Option<Vec<usize>>, TrainError> {
    let Some(next) = next_prompts(count, &is_same)? else { return Ok(None) };
    let other = |place: usize| -> Result<usize, TrainError> {
        let far = (place + count / 2) % count;
        Ok(if is_same(place, far)? { next[far] } else { far })
    };
    (0..count).map(other).collect::<Result<Vec<usize>, TrainError>>().map(Some)
}

/// For each row the next one, around the end, whose prompt is another; `None` where all prompts are the same.
fn next_prompts(
    count: usize,
    is_same: &impl Fn(usize, usize) -> Result<bool, TrainError>,
) -> Result<Option<Vec<usize>>, TrainError> {
    let neighbour = |place: usize| (place + 1) % count;
    let mut ends = Vec::with_capacity(count);
    for place in 0..count {
        ends.push(!is_same(place, neighbour(place))?);
    }
    let Some(last) = ends.iter().rposition(|&ends| ends) else { return Ok(None) };
    let mut next = vec![0; count];
    // Backwards from a row whose neighbour is it, so that each finds its neighbour's known.
    for step in 0..count {
        let place = (last + count - step) % count;
        next[place] = if ends[place] { neighbour(place) } else { next[neighbour(place)] };
    }
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(prompts: &[u32]) -> Option<Vec<usize>> {
        others(prompts.len(), |one, other| Ok(prompts[one] == prompts[other])).unwrap()
    }

    #[test]
    fn the_other_response_is_of_another_prompt_and_each_is_taken_once_where_it_can_be() {
        assert_eq!(of(&[1, 1, 2, 2]).unwrap(), [2, 3, 0, 1]);
        // From row 1 (the same prompt) on to row 2; rows 1 and 2 begin past themselves.
        assert_eq!(of(&[1, 1, 2]).unwrap(), [2, 2, 0]);
        assert_eq!(of(&[1, 1]), None);
        assert_eq!(of(&[1]), None);
        assert_eq!(of(&[]), None);
    }

    proptest! {
        #[test]
        fn it_is_the_first_of_another_prompt_from_half_of_the_data_on(
            prompts in prop::collection::vec(0..3u32, 1..20),
        ) {
            let count = prompts.len();
            let first = |place: usize| {
                (0..count).map(|step| (place + count / 2 + step) % count).find(|&other| prompts[other] != prompts[place])
            };
            prop_assert_eq!(of(&prompts), (0..count).map(first).collect::<Option<Vec<usize>>>());
        }
    }
}
