//! Rows of completions as groups: neighbours with the same prompt, each with its advantage.

use selfplay_records::Completion;

use crate::fingerprint::Fingerprint;
use crate::objectives::Example;
use crate::objectives::completions::{CompletionTokens, completion_tokens};
use crate::turn::TurnRules;
use crate::{LossKind, TrainError};

/// All responses to a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenGroup {
    /// Its name in error messages: that of its first row.
    pub name: String,
    /// Never empty.
    pub prompt: Vec<u32>,
    /// Two or more.
    pub responses: Vec<GroupResponse>,
}

/// A response of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupResponse {
    /// Its tokens, the stop token included; never empty.
    pub ids: Vec<u32>,
    /// A: how much better it is than the others.
    pub advantage: f64,
    /// Log-probs of its tokens under the policy that sampled it; `None`: to be computed with the starting weights.
    pub old: Option<Vec<f32>>,
    /// The same under the reference; `None`: to be computed, or not read.
    pub reference: Option<Vec<f32>>,
}

impl TokenGroup {
    pub(super) fn fingerprint(&self, hash: &mut Fingerprint) {
        hash.ids(&self.prompt).number(self.responses.len() as u64);
        self.responses.iter().for_each(|response| {
            hash.ids(&response.ids);
        });
    }
}

impl Example for TokenGroup {
    fn name(&self) -> &str {
        &self.name
    }

    fn tokens(&self) -> usize {
        self.prompt.len() + self.responses.iter().map(|response| response.ids.len()).sum::<usize>()
    }
}

/// Rows as groups. Neighbours are of one group where they share their `prompt_id`, or have none and the same prompt.
/// `axis_weights`: what each axis counts for `gprl`, 1 where absent.
///
/// # Errors
/// A row without tokens or without the advantage that the loss reads, log-probs that are not one for each token, a group of one.
pub fn token_groups(
    rows: &[Completion],
    rules: TurnRules<'_>,
    loss: LossKind,
    axis_weights: Option<&[f64]>,
) -> Result<Vec<TokenGroup>, TrainError> {
    let mut groups: Vec<TokenGroup> = Vec::new();
    for (place, row) in rows.iter().enumerate() {
        let CompletionTokens { name, prompt, response } = completion_tokens(place, row, rules)?;
        let advantage = advantage(row, loss, axis_weights, &name)?;
        let old = row.logprobs.clone();
        if let Some(old) = &old
            && (old.len() != response.len() || old.iter().any(|x| !x.is_finite()))
        {
            let want = format!("a finite number for each of the {} tokens, or none", response.len());
            return Err(TrainError::example(name, format!("{} `logprobs`", old.len()), want));
        }
        let response = GroupResponse { ids: response, advantage, old, reference: None };
        let is_neighbour = place > 0 && rows[place - 1].prompt_id == row.prompt_id;
        match groups.last_mut().filter(|group| is_neighbour && group.prompt == prompt) {
            Some(group) => group.responses.push(response),
            None => groups.push(TokenGroup { name, prompt, responses: vec![response] }),
        }
    }
    match groups.iter().find(|group| group.responses.len() < 2) {
        None => Ok(groups),
        Some(alone) => Err(TrainError::example(
            alone.name.clone(),
            "a group of one response",
            format!(
                "two or more with the same prompt_id, one after the other: loss = \"{loss}\" compares a prompt's responses"
            ),
        )),
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
