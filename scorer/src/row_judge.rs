//! Kinds that are asked about whole rows: a program, a reward server, a judge, PairRM. What they share is how judgements of rows become
//! preferences and outcomes of contests.

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::Candidates;

use crate::preference_model::preference;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};

/// A kind that gives one judgement of all responses to a prompt.
pub(crate) trait RowJudge: Send + Sync {
    /// What is said of a row.
    type Judgement;

    /// The judgement of each row at the front that was answered before a stop.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::compare`].
    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<Self::Judgement>, ScoreError>;

    /// As [`PreferenceModel::contest_runs`], of rows.
    ///
    /// # Errors
    /// As [`RowJudge::judge`].
    fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        Ok(vec![(0..rows.len()).collect()])
    }

    /// s(i ≻ j) of a row.
    fn score(&self, judged: &Self::Judgement, i: usize, j: usize) -> f64;

    /// P(the first shown wins) of a row of two in both orders, where the kind is shown two at a time.
    fn shown(&self, judged: &Self::Judgement) -> Option<[f64; 2]>;

    /// What s is multiplied by in what is stored.
    fn factor(&self) -> f64;

    /// What is stored for i against j.
    fn stored_score(&self, judged: &Self::Judgement, i: usize, j: usize) -> f64 {
        self.factor() * self.score(judged, i, j)
    }

    /// As [`PreferenceModel::footprint`].
    fn footprint(&self) -> Footprint {
        Footprint::elsewhere()
    }
}

impl<J: RowJudge> PreferenceModel for J {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let judged = self.judge(rows, progress)?;
        let compared = rows
            .iter()
            .zip(&judged)
            .map(|(row, judged)| preference(row, |i, j| self.stored_score(judged, i, j)))
            .collect::<Result<Vec<_>, ScoreError>>()?;
        Ok(if compared.len() == rows.len() { Compared::All(compared) } else { Compared::Stopped(compared) })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        Ok(self.outcomes(contests)?.iter().map(|outcome| sigmoid(outcome.score)).collect())
    }

    fn contest_runs(&self, contests: &[Contest]) -> Result<Vec<Vec<usize>>, ScoreError> {
        self.runs(&contests.iter().map(Contest::candidates).collect::<Vec<_>>())
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let judged = self.judge(&rows, &mut |_| ControlFlow::Continue(()))?;
        let outcome = |(judged, row): (&J::Judgement, &Candidates)| {
            let score = self.score(judged, 0, 1);
            if score.is_finite() {
                return Ok(ContestOutcome { score, shown: self.shown(judged) });
            }
            let prompt_id = row.prompt.prompt_id.clone();
            Err(ScoreError::NotFinite { prompt_id, response: 0, what: "score" })
        };
        judged.iter().zip(&rows).map(outcome).collect()
    }

    fn footprint(&self) -> Footprint {
        RowJudge::footprint(self)
    }
}
