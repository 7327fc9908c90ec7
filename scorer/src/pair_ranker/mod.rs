//! PairRM (llm-blender, arXiv 2306.02561): a DeBERTa encoder reads a prompt and two responses in one sequence and says by how much the
//! first is better.
//!
//! M_AB is the mean over tasks of head(\[h(source); h(candidate 1)]) − head(\[h(source); h(candidate 2)]), with A as candidate 1 and B as
//! candidate 2; the order matters to it. s(A ≻ B) = (M_AB − M_BA)/2. With `score_difference = "reference"` as SPPO ranks:
//! s_i = mean_j (M_ij − M_ji), j = i with 0 among them, and s(i ≻ j) = s_i − s_j.
//!
//! Departures: every sequence is computed by itself and cut by its own source's length (the published collator cuts by the batch's
//! longest, so that scores change with the batch); a conversation of several turns is written as lines `role: text`. It is computed in
//! f32 on the CPU, whatever the device is.
//!
//! ```text
//! config    config.json                    tokens    prompt and responses → one sequence
//! encoder   DeBERTa v2 and v3, forward     attention disentangled attention      load   a folder → the model
//! ```

mod attention;
mod config;
mod encoder;
mod load;
mod tokens;

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::{Candidates, Preference};

use self::encoder::{Encoder, PairHead};
pub(crate) use self::load::{footprint, is_pair_ranker, load, prompt_check};
use self::tokens::RankerSequences;
use crate::preference_model::preference;
use crate::{
    CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreDifference,
    ScoreError,
};

/// A loaded model.
pub(crate) struct PairRanker {
    encoder: Encoder,
    head: PairHead,
    sequences: RankerSequences,
    difference: ScoreDifference,
    footprint: Footprint,
}

impl PairRanker {
    /// M of every ordered pair of a row's responses, \[K]\[K] with 0 on the diagonal.
    fn logits(&self, row: &Candidates) -> Result<Vec<Vec<f64>>, ScoreError> {
        let tokens = self.sequences.of(row)?;
        let k = row.responses.len();
        let mut logits = vec![vec![0.0; k]; k];
        for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))).filter(|(i, j)| i != j) {
            let sequence = tokens.pair(i, j);
            let hidden = self.encoder.forward(&sequence.ids);
            logits[i][j] = self.head.difference(&hidden, &sequence.places);
            if !logits[i][j].is_finite() {
                let prompt_id = row.prompt.prompt_id.clone();
                return Err(ScoreError::NotFinite { prompt_id, response: i, what: "logit" });
            }
        }
        if tokens.cut > 0 {
            tracing::warn!(
                "prompt_id {:?}: {} texts were cut to be scored",
                row.prompt.prompt_id,
                tokens.cut
            );
        }
        Ok(logits)
    }

    /// The table that is stored.
    fn table(&self, row: &Candidates, logits: &[Vec<f64>]) -> Result<Preference, ScoreError> {
        match self.difference {
            ScoreDifference::Paper => preference(row, |i, j| (logits[i][j] - logits[j][i]) / 2.0),
            ScoreDifference::Reference => {
                let k = logits.len();
                let mean = |i: usize| (0..k).map(|j| logits[i][j] - logits[j][i]).sum::<f64>() / k as f64;
                let means: Vec<f64> = (0..k).map(mean).collect();
                preference(row, |i, j| means[i] - means[j])
            }
        }
    }
}

impl PreferenceModel for PairRanker {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let mut compared = Vec::with_capacity(rows.len());
        for row in rows {
            if progress(compared.len()).is_break() {
                return Ok(Compared::Stopped(compared));
            }
            compared.push(self.table(row, &self.logits(row)?)?);
        }
        let _: ControlFlow<()> = progress(compared.len());
        Ok(Compared::All(compared))
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        Ok(self.outcomes(contests)?.iter().map(|outcome| sigmoid(outcome.score)).collect())
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let outcome = |contest: &Contest| {
            let logits = self.logits(&contest.candidates())?;
            let (first, second) = (logits[0][1], -logits[1][0]);
            Ok(ContestOutcome {
                score: (first + second) / 2.0,
                shown: Some([sigmoid(first), sigmoid(second)]),
            })
        };
        contests.iter().map(outcome).collect()
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }
}
