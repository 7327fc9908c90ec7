//! A conversation in tokens with the spans to learn.
//!
//! Every assistant turn of a conversation is learnt, its stop token included; with `loss_tokens = "all"` everything but the first
//! token is.

use std::ops::Range;

use selfplay_records::Instruction;

use crate::objectives::Example;
use crate::turn::{TurnRules, assistant_tokens};
use crate::{LossTokens, TrainError};

/// A conversation in tokens with the spans to train on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SftExample {
    /// Its name in error messages.
    pub name: String,
    /// The whole conversation.
    pub ids: Vec<u32>,
    /// Ascending, disjoint ranges of `ids`: the tokens to learn.
    pub spans: Vec<Range<usize>>,
}

impl SftExample {
    /// The positions of `ids` that are predicted in training. A first token cannot be predicted and is never among them.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        self.spans.iter().cloned().flatten().filter(|&place| place > 0)
    }

    /// Cuts to `limit` tokens from the right; whether anything was cut.
    pub(super) fn truncate(&mut self, limit: usize) -> bool {
        if self.ids.len() <= limit {
            return false;
        }
        self.ids.truncate(limit);
        self.spans.retain_mut(|span| {
            span.end = span.end.min(limit);
            span.start < span.end
        });
        true
    }
}

impl Example for SftExample {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

/// A row of instruction data in tokens. Ids win over messages where it has both.
///
/// # Errors
/// [`TrainError::Example`] with `name` where the row has neither, or the template refuses it.
pub fn sft_example(
    name: String,
    instruction: &Instruction,
    rules: TurnRules<'_>,
    loss_tokens: LossTokens,
) -> Result<SftExample, TrainError> {
    let mut example = match (&instruction.prompt_ids, &instruction.response_ids) {
        (Some(prompt), Some(response)) => {
            let ids: Vec<u32> = prompt.iter().chain(response).copied().collect();
            let spans = std::iter::once(prompt.len()..ids.len()).collect();
            SftExample { name, ids, spans }
        }
        _ => {
            let tokens = assistant_tokens(rules, &instruction.messages, &name)?;
            SftExample { name, ids: tokens.ids, spans: tokens.spans }
        }
    };
    if loss_tokens == LossTokens::All {
        example.spans = std::iter::once(0..example.ids.len()).collect();
    }
    Ok(example)
}

/// Rows of instruction data in tokens.
///
/// # Errors
/// As [`sft_example`]; rows are named by their place.
pub fn sft_examples(
    rows: &[Instruction],
    rules: TurnRules<'_>,
    loss_tokens: LossTokens,
) -> Result<Vec<SftExample>, TrainError> {
    let example =
        |(row, instruction)| sft_example(format!("instruction {row}"), instruction, rules, loss_tokens);
    rows.iter().enumerate().map(example).collect()
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "spans are lists of ranges, and one is a list too")]
mod tests {
    use super::*;

    fn example(ids: &[u32], spans: &[Range<usize>]) -> SftExample {
        SftExample { name: "instruction 0".into(), ids: ids.to_vec(), spans: spans.to_vec() }
    }

    #[test]
    fn a_first_token_is_never_a_target() {
        assert_eq!(example(&[1, 2, 3], &[0..2]).targets().collect::<Vec<_>>(), [1]);
        assert_eq!(example(&[1], &[0..1]).targets().count(), 0);
    }

    #[test]
    fn cutting_shortens_and_drops_spans() {
        let mut long = example(&[1, 2, 3, 4, 5, 6], &[1..3, 4..6]);
        assert!(!long.truncate(6));
        assert!(long.truncate(5));
        assert_eq!(long.spans, [1..3, 4..5]);
        assert!(long.truncate(4));
        assert_eq!((long.ids.len(), long.spans.len()), (4, 1));
    }
}
