//! Bradley-Terry: a reward per response, s(i ≻ j) = (r_i − r_j) / τ, P(i ≻ j) = σ(s).
//!
//! The reward is `value_head` \[1, hidden] at the last token, as it stands: no L2 (which would leave its sign only).
//! A prompt head, if the weights have one, has no block to scale and is not read.

use selfplay_model::preference::score::reward_difference;
use selfplay_records::Candidates;

use super::embedder::Embedder;
use super::{Embedding, Embeds};
use crate::{CompareProgress, Footprint, ScoreError};

/// A reward model.
pub(super) struct BradleyTerry {
    /// Over a value head that the loader has checked.
    pub(super) embedder: Embedder,
    pub(super) tau: f64,
}

impl Embeds for BradleyTerry {
    fn embed(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Vec<Embedding>>, ScoreError> {
        self.embedder.embed(rows, progress)
    }

    fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
        reward_difference(&a.value, &b.value) / self.tau
    }

    fn footprint(&self) -> Footprint {
        self.embedder.footprint()
    }
}
