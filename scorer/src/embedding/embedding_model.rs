//! A decoder with the heads of one [`EmbeddingKind`].

use selfplay_records::Candidates;

use super::embedder::Embedder;
use super::gpm::GroupAdvantages;
use super::hrc::CyclicSchedule;
use super::{Embedding, EmbeddingKind, Embeds, bradley_terry, gpm, hrc};
use crate::{CompareProgress, Footprint, ScoreError};

/// A GPM, a Bradley-Terry model, or both in one.
pub(super) struct EmbeddingModel {
    pub(super) kind: EmbeddingKind,
    /// Its heads are those of `kind`, which the loader has checked.
    pub(super) embedder: Embedder,
    /// What scores are divided by.
    pub(super) tau: f64,
    /// How tables weigh the two parts of an HRC model.
    pub(super) schedule: CyclicSchedule,
}

impl Embeds for EmbeddingModel {
    fn embed(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Vec<Embedding>>, ScoreError> {
        let mut rows = self.embedder.embed(rows, progress)?;
        match self.kind {
            EmbeddingKind::Gpm => rows.iter_mut().flatten().for_each(gpm::normalise),
            EmbeddingKind::Hrc => rows.iter_mut().flatten().for_each(hrc::normalise),
            EmbeddingKind::BradleyTerry => {}
        }
        Ok(rows)
    }

    fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        self.embedder.runs(rows)
    }

    fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
        let score = match self.kind {
            EmbeddingKind::Gpm => gpm::score(a, b),
            EmbeddingKind::BradleyTerry => bradley_terry::score(a, b),
            EmbeddingKind::Hrc => return hrc::score(a, b, self.tau, CyclicSchedule::default()),
        };
        score / self.tau
    }

    fn table_score(&self, a: &Embedding, b: &Embedding) -> f64 {
        match self.kind {
            EmbeddingKind::Hrc => hrc::score(a, b, self.tau, self.schedule),
            EmbeddingKind::Gpm | EmbeddingKind::BradleyTerry => self.score(a, b),
        }
    }

    fn advantages(&self, responses: &[Embedding]) -> Option<GroupAdvantages> {
        match self.kind {
            EmbeddingKind::Gpm => Some(gpm::advantages(responses)),
            EmbeddingKind::BradleyTerry | EmbeddingKind::Hrc => None,
        }
    }

    fn footprint(&self) -> Footprint {
        self.embedder.footprint()
    }
}
