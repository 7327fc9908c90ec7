//! PairRM (llm-blender, arXiv 2306.02561): a DeBERTa encoder reads a prompt and two responses in one sequence and says by how much the
//! first is better.
//!
//! M_AB is the mean over tasks of head(\[h(source); h(candidate 1)]) − head(\[h(source); h(candidate 2)]), with A as candidate 1 and B as
//! candidate 2; the order matters to it. s(A ≻ B) = (M_AB − M_BA)/2. With `score_difference = "reference"` as SPPO ranks:
//! s_i = mean_j (M_ij − M_ji), j = i with 0 among them, and s(i ≻ j) = s_i − s_j.
//!
//! Departures: no sequence sees another (several go through the encoder one after the other, unpadded), and each is cut by its own source's length (the published collator cuts by the batch's
//! longest, so that scores change with the batch); a conversation of several turns is written as lines `role: text`. It is computed in
//! f32 on the CPU, whatever the device is.
//!
//! ```text
//! config    config.json                    tokens    prompt and responses → one sequence
//! encoder   DeBERTa v2 and v3, forward     load   a folder → the model
//! ```

mod config;
mod encoder;
mod load;
mod tokens;

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::Candidates;
use serde_json::json;

use self::encoder::{Encoder, EncoderInput, PairHead};
pub(crate) use self::load::{footprint, is_pair_ranker, load, prompt_check};
use self::tokens::{PairSequence, RankerSequences};
use crate::kept_answers::KeptAnswers;
use crate::row_judge::RowJudge;
use crate::{CompareProgress, Footprint, ScoreDifference, ScoreError};

/// A loaded model.
pub(crate) struct PairRanker {
    encoder: Encoder,
    head: PairHead,
    sequences: RankerSequences,
    difference: ScoreDifference,
    footprint: Footprint,
    kept: KeptAnswers,
}

/// Tokens of sequences that go through the encoder together, so that its weights are read from memory less often; or one longer sequence.
const PASS_TOKENS: usize = 2048;

/// M of every ordered pair of a row's responses, \[K]\[K] with 0 on the diagonal.
type RowLogits = Vec<Vec<f64>>;

/// The rows, by the tokens of each of their sequences, that go through the encoder together: a run begins where a pass begins with a row's
/// first sequence.
fn pass_runs(lengths: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let (mut runs, mut tokens) = (Vec::<Vec<usize>>::new(), 0);
    for (number, row) in lengths.iter().enumerate() {
        let mut begins = false;
        for (place, &length) in row.iter().enumerate() {
            if tokens + length > PASS_TOKENS && tokens > 0 {
                begins |= place == 0;
                tokens = 0;
            }
            tokens += length;
        }
        match runs.last_mut().filter(|_| !begins) {
            Some(run) => run.push(number),
            None => runs.push(vec![number]),
        }
    }
    runs
}

/// A sequence on its way, with the place of its M.
struct Question {
    row: usize,
    pair: (usize, usize),
    sequence: PairSequence,
}

impl PairRanker {
    fn logits(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<RowLogits>, ScoreError> {
        let mut logits: Vec<RowLogits> = Vec::with_capacity(rows.len());
        let (mut pass, mut tokens) = (Vec::<Question>::new(), 0);
        for (number, row) in rows.iter().enumerate() {
            let parts = self.sequences.of(row)?;
            if parts.cut > 0 {
                let (prompt_id, cut) = (&row.prompt.prompt_id, parts.cut);
                tracing::warn!("prompt_id {prompt_id:?}: {cut} texts were cut to be scored");
            }
            let k = row.responses.len();
            logits.push(vec![vec![0.0; k]; k]);
            for (i, j) in (0..k).flat_map(|i| (0..k).map(move |j| (i, j))).filter(|(i, j)| i != j) {
                let sequence = parts.pair(i, j);
                let length = sequence.ids.len();
                if tokens + length > PASS_TOKENS && !pass.is_empty() {
                    // Rows before the first one in the pass are complete.
                    let complete = pass[0].row;
                    if progress(complete).is_break() {
                        logits.truncate(complete);
                        return Ok(logits);
                    }
                    self.answer(rows, &pass, &mut logits)?;
                    pass.clear();
                    tokens = 0;
                }
                tokens += length;
                pass.push(Question { row: number, pair: (i, j), sequence });
            }
        }
        let complete = pass.first().map_or(rows.len(), |question| question.row);
        if progress(complete).is_break() {
            logits.truncate(complete);
            return Ok(logits);
        }
        self.answer(rows, &pass, &mut logits)?;
        let _: ControlFlow<()> = progress(rows.len());
        Ok(logits)
    }

    /// Puts the M of each question in its place.
    fn answer(
        &self,
        rows: &[Candidates],
        pass: &[Question],
        logits: &mut [RowLogits],
    ) -> Result<(), ScoreError> {
        let asked = || json!(pass.iter().map(|question| &question.sequence.ids).collect::<Vec<_>>());
        let computed = self.kept.pass("pair-ranker", pass.len(), asked, || {
            let inputs: Vec<EncoderInput<'_>> =
                pass.iter().map(|question| question.sequence.input()).collect();
            let marks = self.encoder.forward(&inputs);
            let width = 3 * self.encoder.config.hidden_size;
            Ok(marks.chunks_exact(width).map(|marks| self.head.difference(marks)).collect())
        })?;
        for (question, logit) in pass.iter().zip(computed) {
            let (row, (i, j)) = (question.row, question.pair);
            if !logit.is_finite() {
                let prompt_id = rows[row].prompt.prompt_id.clone();
                return Err(ScoreError::NotFinite { prompt_id, response: i, what: "logit" });
            }
            logits[row][i][j] = logit;
        }
        Ok(())
    }
}

impl RowJudge for PairRanker {
    type Judgement = RowLogits;

    /// M of all rows; after a stop, of complete rows at the front.
    fn judge(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<RowLogits>, ScoreError> {
        self.logits(rows, progress)
    }

    fn runs(&self, rows: &[Candidates]) -> Result<Vec<Vec<usize>>, ScoreError> {
        let lengths = |row: &Candidates| -> Result<Vec<usize>, ScoreError> {
            let (parts, k) = (self.sequences.of(row)?, row.responses.len());
            let pairs = (0..k).flat_map(|i| (0..k).map(move |j| (i, j))).filter(|(i, j)| i != j);
            Ok(pairs.map(|(i, j)| parts.pair(i, j).ids.len()).collect())
        };
        Ok(pass_runs(&rows.iter().map(lengths).collect::<Result<Vec<_>, ScoreError>>()?))
    }

    fn score(&self, logits: &RowLogits, i: usize, j: usize) -> f64 {
        (logits[i][j] - logits[j][i]) / 2.0
    }

    fn stored_score(&self, logits: &RowLogits, i: usize, j: usize) -> f64 {
        match self.difference {
            ScoreDifference::Paper => self.score(logits, i, j),
            ScoreDifference::Reference => {
                let k = logits.len();
                let mean = |i: usize| (0..k).map(|j| logits[i][j] - logits[j][i]).sum::<f64>() / k as f64;
                mean(i) - mean(j)
            }
        }
    }

    fn shown(&self, logits: &RowLogits) -> Option<[f64; 2]> {
        Some([sigmoid(logits[0][1]), sigmoid(-logits[1][0])])
    }

    fn factor(&self) -> f64 {
        1.0
    }

    fn footprint(&self) -> Footprint {
        self.footprint.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_begins_where_a_pass_begins_with_a_row() {
        // 1000 + 1000 | 700 + 700 + 600 | 700 + 1300 | 1300 | 2048 | 3000 | 1 + 1.
        let lengths =
            [[1000, 1000], [700, 700], [600, 700], [1300, 1300], [2048, 3000], [1, 1]].map(Vec::from);
        let runs = pass_runs(&lengths);
        assert_eq!(runs, [vec![0], vec![1, 2, 3], vec![4], vec![5]]);
        // Each run by itself has the same borders.
        for run in &runs {
            let own: Vec<Vec<usize>> = run.iter().map(|&row| lengths[row].clone()).collect();
            assert_eq!(pass_runs(&own).len(), 1);
        }
        assert!(pass_runs(&[]).is_empty());
    }
}
