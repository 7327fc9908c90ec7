//! Completions: single responses to learn from, where a loss takes no pairs.

use serde::{Deserialize, Serialize};

use crate::row::{self, Columns, finite};
use crate::{ColumnSpec, ColumnType, FieldProblem, Message, Row};

/// One response to a prompt, with what a loss without pairs reads of it.
///
/// `prompt`, `completion` and `label` are the columns of unpaired preference data as TRL names them. Ids win over messages where
/// both stand.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The prompt's id; neighbours that share it are a group.
    #[serde(
        default,
        deserialize_with = "crate::prompt::optional_id",
        skip_serializing_if = "Option::is_none"
    )]
    pub prompt_id: Option<String>,
    /// The prompt's text as one user message, or its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Vec<Message>>,
    /// The response, one assistant message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion: Option<Vec<Message>>,
    /// The prompt's token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
    /// The response's token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_ids: Option<Vec<u32>>,
    /// Whether the response is desirable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<bool>,
    /// ŝ: its mean score against all K, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// Its ŝ over the spread of its group: (ŝ − mean)/(deviation + 1e-6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advantage: Option<f64>,
    /// The same by axis of a preference model that has axes, each weighed by its λ.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis_advantages: Option<Vec<f64>>,
    /// By axis, how far its reward is from the group's mean, weighed by λ and not divided by the spread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axis_rewards: Option<Vec<f64>>,
    /// Log-probability of each of `completion_ids` under the policy that sampled it, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f32>>,
}

/// What a loss learns from: how an iteration hands its preferences over to training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExampleKind {
    /// Pairs of a chosen and a rejected response.
    Pairs,
    /// Single responses, each desirable or undesirable.
    Unpaired,
    /// The best response to each prompt.
    Best,
    /// All of a prompt's responses, with their advantages.
    Groups,
}

impl ExampleKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Pairs, Self::Unpaired, Self::Best, Self::Groups];

    /// The name of its file in an iteration's folder, without the ending.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Unpaired => "unpaired",
            Self::Best => "best",
            Self::Groups => "groups",
        }
    }
}

impl Row for Completion {
    const NOUN: &'static str = "completions";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        let numbers = || row::number().list();
        Columns::of(rows)
            .where_some("prompt_id", row::text(), |row| row.prompt_id.is_some())
            .messages("prompt", |row| row.prompt.as_deref())
            .messages("completion", |row| row.completion.as_deref())
            .where_some("prompt_ids", row::ids(), |row| row.prompt_ids.is_some())
            .where_some("completion_ids", row::ids(), |row| row.completion_ids.is_some())
            .where_some("label", ColumnType::Bool, |row| row.label.is_some())
            .where_some("score", row::number(), |row| row.score.is_some())
            .where_some("advantage", row::number(), |row| row.advantage.is_some())
            .where_some("axis_advantages", numbers(), |row| row.axis_advantages.is_some())
            .where_some("axis_rewards", numbers(), |row| row.axis_rewards.is_some())
            .where_some("logprobs", ColumnType::Float32.list(), |row| row.logprobs.is_some())
            .schema()
    }

    fn check(&self) -> Result<(), FieldProblem> {
        let by_ids = self.prompt_ids.is_some() && self.completion_ids.is_some();
        if !by_ids && (self.prompt.is_none() || self.completion.is_none()) {
            let missing = match (&self.prompt_ids, &self.completion_ids) {
                (Some(_), None) => "completion_ids",
                (None, Some(_)) => "prompt_ids",
                _ if self.prompt.is_none() => "prompt",
                _ => "completion",
            };
            let expected =
                "\"prompt_ids\" and \"completion_ids\", or message lists \"prompt\" and \"completion\"";
            return Err(FieldProblem::new(missing, expected, "no such field"));
        }
        for (name, ids) in [("prompt_ids", &self.prompt_ids), ("completion_ids", &self.completion_ids)] {
            if ids.as_ref().is_some_and(Vec::is_empty) {
                return Err(FieldProblem::new(name, "at least one token id", "an empty array"));
            }
        }
        for (name, turns) in [("prompt", &self.prompt), ("completion", &self.completion)] {
            if turns.as_ref().is_some_and(Vec::is_empty) {
                return Err(FieldProblem::new(name, "at least one message", "an empty array"));
            }
        }
        if let (Some(ids), Some(logprobs)) = (&self.completion_ids, &self.logprobs)
            && ids.len() != logprobs.len()
        {
            let expected = format!("one for each of the {} ids", ids.len());
            return Err(FieldProblem::new("logprobs", expected, logprobs.len()));
        }
        if let Some(logprobs) = &self.logprobs {
            finite("logprobs", logprobs)?;
        }
        let lists = [("axis_advantages", &self.axis_advantages), ("axis_rewards", &self.axis_rewards)];
        let all = lists.iter().flat_map(|(name, list)| list.iter().flatten().map(|&value| (*name, value)));
        let single = [("score", self.score), ("advantage", self.advantage)];
        let single = single.into_iter().filter_map(|(name, value)| Some((name, value?)));
        match single.chain(all).find(|(_, value)| !value.is_finite()) {
            Some((name, value)) => Err(FieldProblem::new(name, "a finite number", value)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{read_rows, write_rows};

    #[test]
    fn rows_come_back_from_both_forms_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let whole = Completion {
            prompt_id: Some("p".into()),
            prompt: Some(vec![Message::user("q")]),
            completion: Some(vec![Message::assistant("a")]),
            prompt_ids: Some(vec![1, 2]),
            completion_ids: Some(vec![3, 4]),
            label: Some(false),
            score: Some(-0.1),
            advantage: Some(1.0 / 3.0),
            axis_advantages: Some(vec![0.25, -1e-17]),
            axis_rewards: Some(vec![0.5, 0.0]),
            logprobs: Some(vec![-0.7, -1e-8]),
        };
        let bare = Completion {
            prompt: Some(vec![Message::user("q")]),
            completion: Some(vec![Message::assistant("a")]),
            label: Some(true),
            ..Completion::default()
        };
        for name in ["rows.jsonl", "rows.parquet"] {
            let path = folder.path().join(name);
            let rows = [whole.clone(), bare.clone()];
            write_rows(&path, &rows).unwrap();
            assert_eq!(read_rows::<Completion>(&path).unwrap(), rows, "{name}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let good = Completion {
            prompt_ids: Some(vec![1]),
            completion_ids: Some(vec![2, 3]),
            ..Completion::default()
        };
        assert!(good.check().is_ok());
        let field = |row: Completion| row.check().unwrap_err().field;
        assert!(field(Completion { completion_ids: None, ..good.clone() }).contains("completion_ids"));
        assert!(field(Completion { logprobs: Some(vec![0.0]), ..good.clone() }).contains("logprobs"));
        let infinite = Completion { logprobs: Some(vec![-1.0, f32::NEG_INFINITY]), ..good.clone() };
        assert_eq!(field(infinite), "logprobs[1]");
        assert!(field(Completion { advantage: Some(f64::NAN), ..good.clone() }).contains("advantage"));
        assert!(
            field(Completion { axis_rewards: Some(vec![f64::INFINITY]), ..good }).contains("axis_rewards")
        );
        assert!(field(Completion::default()).contains("prompt"));
    }
}
