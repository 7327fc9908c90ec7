//! Bradley-Terry: a reward per response, s(i ≻ j) = (r_i − r_j) / τ, P(i ≻ j) = σ(s).
//!
//! The reward is `value_head` \[1, hidden] at the last token, as it stands: no L2 (which would leave its sign only).
//! A prompt head, if the weights have one, has no block to scale and is not read.

use selfplay_records::Candidates;

use crate::embedder::{Embedder, HeadOutput};
use crate::{EmbeddedRow, Embedding, PreferenceKind, PreferenceModel, ScoreError, ScoreSettings};

/// A reward model.
pub struct BradleyTerry {
    embedder: Embedder,
    settings: ScoreSettings,
    tau: f64,
}

impl BradleyTerry {
    /// Over a value head that [`crate::load`] has checked.
    pub(crate) fn new(embedder: Embedder, settings: ScoreSettings, tau: f64) -> Self {
        Self { embedder, settings, tau }
    }

    /// The model that reads the conversations.
    pub fn embedder(&self) -> &Embedder {
        &self.embedder
    }
}

impl PreferenceModel for BradleyTerry {
    fn kind(&self) -> PreferenceKind {
        PreferenceKind::BradleyTerry
    }

    fn settings(&self) -> &ScoreSettings {
        &self.settings
    }

    fn tau(&self) -> f64 {
        self.tau
    }

    fn embed(&self, rows: &[Candidates]) -> Result<Vec<EmbeddedRow>, ScoreError> {
        let heads = self.embedder.heads_of(rows)?;
        let embed = |response: &HeadOutput| Embedding {
            value: response.value.iter().map(|&x| f64::from(x)).collect(),
            gate: Vec::new(),
        };
        let embed_row = |row: &Vec<_>| EmbeddedRow { responses: row.iter().map(embed).collect() };
        Ok(heads.iter().map(embed_row).collect())
    }

    fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
        reward_difference(a, b) / self.tau
    }
}

/// r_a − r_b.
pub(crate) fn reward_difference(a: &Embedding, b: &Embedding) -> f64 {
    let reward = |e: &Embedding| e.value.iter().sum::<f64>();
    reward(a) - reward(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_are_transitive() {
        let with = |r: f64| Embedding { value: vec![r], gate: Vec::new() };
        let (a, b, c) = (with(2.5), with(-1.0), with(0.25));
        assert_eq!(reward_difference(&a, &b), 3.5);
        assert_eq!(reward_difference(&b, &a), -3.5);
        assert_eq!(reward_difference(&a, &c) + reward_difference(&c, &b), reward_difference(&a, &b));
    }
}
