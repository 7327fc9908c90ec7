//! Pairs: what the trainer learns from.

use serde::{Deserialize, Serialize};

use crate::row::{self, Columns};
use crate::{ColumnSpec, FieldProblem, Message, Row};

/// A chosen and a rejected response to one prompt, with what the preference model says of them.
///
/// Ids win over messages where both stand. Column names are the reference pipeline's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The prompt's id, where the pair was made from candidates.
    #[serde(
        default,
        deserialize_with = "crate::prompt::optional_id",
        skip_serializing_if = "Option::is_none"
    )]
    pub prompt_id: Option<String>,
    /// The prompt's text as one user message, or its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Vec<Message>>,
    /// The prompt's conversation with the chosen response as last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Vec<Message>>,
    /// The prompt's conversation with the rejected response as last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected: Option<Vec<Message>>,
    /// The prompt's token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_ids: Option<Vec<u32>>,
    /// The chosen response's token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_ids: Option<Vec<u32>>,
    /// The rejected response's token ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_ids: Option<Vec<u32>>,
    /// P(w ≻ l).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_probs: Option<f64>,
    /// P̂_w: mean probability of the chosen response against all K, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_probs_win: Option<f64>,
    /// P̂_l: the same of the rejected response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_probs_lose: Option<f64>,
    /// s(w, l).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_score: Option<f64>,
    /// ŝ_w: mean score of the chosen response against all K, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_score_win: Option<f64>,
    /// ŝ_l: the same of the rejected response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_score_lose: Option<f64>,
    /// log π_ref(chosen | prompt), summed, in nats; used instead of computing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_chosen_logps: Option<f64>,
    /// log π_ref(rejected | prompt), summed, in nats; used instead of computing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_rejected_logps: Option<f64>,
    /// log π_initial(chosen | prompt), summed, in nats; used instead of computing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_chosen_logps: Option<f64>,
    /// log π_initial(rejected | prompt), summed, in nats; used instead of computing it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_rejected_logps: Option<f64>,
}

impl Pair {
    /// Whether all three lists of token ids are there, so that no text is needed.
    pub fn has_ids(&self) -> bool {
        self.prompt_ids.is_some() && self.chosen_ids.is_some() && self.rejected_ids.is_some()
    }

    /// The chosen response's text: the last turn of `chosen`.
    pub fn chosen_text(&self) -> Option<&str> {
        Some(self.chosen.as_ref()?.last()?.content.as_str())
    }

    /// The rejected response's text: the last turn of `rejected`.
    pub fn rejected_text(&self) -> Option<&str> {
        Some(self.rejected.as_ref()?.last()?.content.as_str())
    }
}

impl Row for Pair {
    const NOUN: &'static str = "pairs";

    fn schema(rows: &[Self]) -> Vec<ColumnSpec> {
        Columns::of(rows)
            .where_some("prompt_id", row::text(), |row| row.prompt_id.is_some())
            .messages("prompt", |row| row.prompt.as_deref())
            .messages("chosen", |row| row.chosen.as_deref())
            .messages("rejected", |row| row.rejected.as_deref())
            .where_some("prompt_ids", row::ids(), |row| row.prompt_ids.is_some())
            .where_some("chosen_ids", row::ids(), |row| row.chosen_ids.is_some())
            .where_some("rejected_ids", row::ids(), |row| row.rejected_ids.is_some())
            .where_some("chosen_probs", row::number(), |row| row.chosen_probs.is_some())
            .where_some("chosen_probs_win", row::number(), |row| row.chosen_probs_win.is_some())
            .where_some("chosen_probs_lose", row::number(), |row| row.chosen_probs_lose.is_some())
            .where_some("chosen_score", row::number(), |row| row.chosen_score.is_some())
            .where_some("chosen_score_win", row::number(), |row| row.chosen_score_win.is_some())
            .where_some("chosen_score_lose", row::number(), |row| row.chosen_score_lose.is_some())
            .where_some("ref_chosen_logps", row::number(), |row| row.ref_chosen_logps.is_some())
            .where_some("ref_rejected_logps", row::number(), |row| row.ref_rejected_logps.is_some())
            .where_some("initial_chosen_logps", row::number(), |row| row.initial_chosen_logps.is_some())
            .where_some("initial_rejected_logps", row::number(), |row| row.initial_rejected_logps.is_some())
            .schema()
    }

    fn check(&self) -> Result<(), FieldProblem> {
        let by_text = self.chosen.is_some() && self.rejected.is_some();
        if !self.has_ids() && !by_text {
            let ids = [
                ("prompt_ids", &self.prompt_ids),
                ("chosen_ids", &self.chosen_ids),
                ("rejected_ids", &self.rejected_ids),
            ];
            // One list of ids asks for the others; none asks for the texts.
            let missing = match ids.iter().find(|(_, ids)| ids.is_none()) {
                Some((name, _)) if ids.iter().any(|(_, ids)| ids.is_some()) => name,
                _ if self.chosen.is_none() => "chosen",
                _ => "rejected",
            };
            let expected = "\"prompt_ids\", \"chosen_ids\" and \"rejected_ids\", or message lists \"chosen\" and \"rejected\"";
            return Err(FieldProblem::new(missing, expected, "no such field"));
        }
        for (name, ids) in [("chosen_ids", &self.chosen_ids), ("rejected_ids", &self.rejected_ids)] {
            if ids.as_ref().is_some_and(Vec::is_empty) {
                return Err(FieldProblem::new(name, "at least one token id", "an empty array"));
            }
        }
        for (name, turns) in [("chosen", &self.chosen), ("rejected", &self.rejected)] {
            if turns.as_ref().is_some_and(Vec::is_empty) {
                return Err(FieldProblem::new(name, "at least one message", "an empty array"));
            }
        }
        let numbers = [
            ("chosen_probs", self.chosen_probs),
            ("chosen_probs_win", self.chosen_probs_win),
            ("chosen_probs_lose", self.chosen_probs_lose),
            ("chosen_score", self.chosen_score),
            ("chosen_score_win", self.chosen_score_win),
            ("chosen_score_lose", self.chosen_score_lose),
            ("ref_chosen_logps", self.ref_chosen_logps),
            ("ref_rejected_logps", self.ref_rejected_logps),
            ("initial_chosen_logps", self.initial_chosen_logps),
            ("initial_rejected_logps", self.initial_rejected_logps),
        ];
        for (name, value) in numbers {
            if let Some(value) = value.filter(|value| !value.is_finite()) {
                return Err(FieldProblem::new(name, "a finite number", value));
            }
        }
        Ok(())
    }
}
