//! Rows of completions as groups: neighbours with the same prompt, each with its advantage.

use std::path::Path;

use selfplay_records::Completion;

use super::data::GroupData;
use super::token_group::{GroupResponse, TokenGroup};
use crate::objectives::completions::{CompletionTokens, completion_tokens};
use crate::turn::TurnRules;
use crate::{LossKind, TrainError};

/// Groups, given row by row. Neighbours are of one group where they share their `prompt_id`, or have none and the same prompt.
pub struct GroupBuilder<'a> {
    rules: TurnRules<'a>,
    loss: LossKind,
    axis_weights: Option<&'a [f64]>,
    groups: GroupData,
    open: Option<OpenGroup>,
}

/// The group that the last row is of.
struct OpenGroup {
    prompt_id: Option<String>,
    group: TokenGroup,
}

impl<'a> GroupBuilder<'a> {
    /// No rows yet. `axis_weights`: what each axis counts for `gprl`, 1 where absent; `folder` is where numbers go that do not fit into
    /// memory.
    pub fn new(rules: TurnRules<'a>, loss: LossKind, axis_weights: Option<&'a [f64]>, folder: &Path) -> Self {
        Self { rules, loss, axis_weights, groups: GroupData::new(folder), open: None }
    }

    /// Adds a row of this number.
    ///
    /// # Errors
    /// A row without tokens or without the advantage that the loss reads, log-probs that are not one for each token, a group of one before
    /// it; a file that cannot be written.
    pub fn push(&mut self, row: usize, completion: &Completion) -> Result<(), TrainError> {
        let CompletionTokens { name, prompt, response } = completion_tokens(row, completion, self.rules)?;
        let advantage = advantage(completion, self.loss, self.axis_weights, &name)?;
        let old = completion.logprobs.clone();
        if let Some(old) = &old
            && (old.len() != response.len() || old.iter().any(|x| !x.is_finite()))
        {
            let want = format!("a finite number for each of the {} tokens, or none", response.len());
            return Err(TrainError::example(name, format!("{} `logprobs`", old.len()), want));
        }
        let response = GroupResponse { ids: response, advantage, old, reference: None };
        let is_of =
            |open: &&mut OpenGroup| open.prompt_id == completion.prompt_id && open.group.prompt == prompt;
        match self.open.as_mut().filter(is_of) {
            Some(open) => open.group.responses.push(response),
            None => {
                self.close()?;
                let group = TokenGroup { name, prompt, responses: vec![response] };
                self.open = Some(OpenGroup { prompt_id: completion.prompt_id.clone(), group });
            }
        }
        Ok(())
    }

    /// Puts the open group to the others.
    fn close(&mut self) -> Result<(), TrainError> {
        let Some(OpenGroup { group, .. }) = self.open.take() else { return Ok(()) };
        if group.responses.len() < 2 {
            return Err(TrainError::example(
                group.name,
                "a group of one response",
                format!(
                    "two or more with the same prompt_id, one after the other: loss = \"{}\" compares a prompt's responses",
                    self.loss
                ),
            ));
        }
        self.groups.push(&group)
    }

    /// The groups.
    ///
    /// # Errors
    /// A last group of one; a file that cannot be written.
    pub fn finish(mut self) -> Result<GroupData, TrainError> {
        self.close()?;
        Ok(self.groups)
    }
}

/// The advantage that the loss reads.
fn advantage(
    row: &Completion,
    loss: LossKind,
    axis_weights: Option<&[f64]>,
    name: &str,
) -> Result<f64, TrainError> {
    let absent = |field: &str, want: &str| Err(TrainError::example(name, format!("no `{field}`"), want));
    if loss != LossKind::Gprl {
        return match row.advantage {
            Some(advantage) => Ok(advantage),
            None => absent("advantage", "a number: rows made by `selfplay pair` have it"),
        };
    }
    let Some(by_axis) = &row.axis_advantages else {
        return absent(
            "axis_advantages",
            "a number for each axis, which score.advantages = \"per-axis\" gives",
        );
    };
    match axis_weights {
        None => Ok(by_axis.iter().sum()),
        Some(weights) if weights.len() == by_axis.len() => {
            Ok(by_axis.iter().zip(weights).map(|(advantage, weight)| advantage * weight).sum())
        }
        Some(weights) => Err(TrainError::example(
            name,
            format!("`axis_advantages` of {} axes", by_axis.len()),
            format!("{}, as the rows of the first iteration: another preference model?", weights.len()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_those_of_the_loss() {
        let row = Completion {
            advantage: Some(0.5),
            axis_advantages: Some(vec![1.0, -0.25]),
            ..Completion::default()
        };
        let of = |loss, weights: Option<&[f64]>| advantage(&row, loss, weights, "completion 3");
        assert_eq!(of(LossKind::Grpo, None).unwrap(), 0.5);
        assert_eq!(of(LossKind::Gprl, None).unwrap(), 0.75);
        assert_eq!(of(LossKind::Gprl, Some(&[0.5, 1.0])).unwrap(), 0.25);
        let text = of(LossKind::Gprl, Some(&[1.0; 3])).unwrap_err().to_string();
        assert!(text.contains("completion 3") && text.contains("2 axes"), "{text}");
        let bare =
            advantage(&Completion::default(), LossKind::Gprl, None, "completion 3").unwrap_err().to_string();
        assert!(bare.contains("axis_advantages") && bare.contains("per-axis"), "{bare}");
    }
}
