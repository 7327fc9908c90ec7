//! A pair-preference language model (RLHFlow/pair-preference-model-LLaMA3-8B): a language model that reads the prompt and two
//! responses as one user message and answers "A" or "B".
//!
//! P(A) = softmax over the logits of the two tokens "A" and "B" at the position of the answer. Which response is A matters to such
//! a model, so each pair is asked in both orders: P(i ≻ j) = (P(A | i, j) + 1 − P(A | j, i)) / 2, s = logit P, with P kept 1e-6 away
//! from 0 and 1.
//!
//! Departures: the published code renders without the generation prompt, which its model's template opened always; here it is
//! asked for, so that a template that waits for it puts the answer at the same place. Responses that are too long together are
//! cut (the published code leaves that to the model).

mod load;
mod question;

pub(crate) use load::{Asking, footprint, load, prompt_check};
pub(crate) use question::QuestionForm;

use selfplay_model::{Codec, Decoder, PackedBatch};
use selfplay_records::{Candidates, Preference};
use serde_json::json;

use self::question::{AskedRow, Questions};
use crate::kept_answers::KeptAnswers;
use crate::logit::logit;
use crate::packing::{AtOnce, BatchPlan, PackedGroup, PrefixGroup, run_passes, runs};
use crate::preference_model::preference;
use crate::row_texts::tokenise_rows;
use crate::{CompareProgress, Compared, Contest, ContestOutcome, Footprint, PreferenceModel, ScoreError};

/// A loaded model.
pub(crate) struct PairLm {
    decoder: Decoder,
    codec: Codec,
    /// The tokens of "A" and of "B".
    answers: [u32; 2],
    form: QuestionForm,
    max_length: usize,
    batch_tokens: usize,
    /// What s is multiplied by in what is stored.
    factor: f64,
    kept: KeptAnswers,
}

/// P(A) for every ordered pair of a row's responses, as `question::orders` lists them.
struct AnsweredRow {
    p_first: Vec<f64>,
    responses: usize,
}

impl AnsweredRow {
    /// P(i ≻ j), freed of the order.
    fn probability(&self, i: usize, j: usize) -> f64 {
        let asked = |i: usize, j: usize| {
            let place = i * (self.responses - 1) + if j > i { j - 1 } else { j };
            self.p_first[place]
        };
        (asked(i, j) + 1.0 - asked(j, i)) / 2.0
    }
}

impl PairLm {
    /// Asks about every ordered pair of each row; after a stop, the complete rows at the front.
    fn ask(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<AnsweredRow>, ScoreError> {
        let asked = self.questions(rows)?;
        let cut: usize = asked.iter().map(|row| row.cut).sum();
        if cut > 0 {
            tracing::warn!("{cut} pairs of responses were cut to fit {} tokens", self.max_length);
        }
        let sequences: Vec<&[Vec<u32>]> = asked.iter().map(|row| row.sequences.as_slice()).collect();
        let answers = run_passes(
            &sequences,
            self.batch_tokens,
            progress,
            &mut AtOnce(|batch: &BatchPlan| self.pass(batch, &sequences)),
        )?;
        let rows = rows.iter().zip(answers);
        rows.map(|(row, p_first)| {
            if let Some(place) = p_first.iter().position(|p| !p.is_finite()) {
                let response = place / (row.responses.len() - 1).max(1);
                return Err(ScoreError::NotFinite {
                    prompt_id: row.prompt.prompt_id.clone(),
                    response,
                    what: "probability",
                });
            }
            Ok(AnsweredRow { p_first, responses: row.responses.len() })
        })
        .collect()
    }

    fn questions(&self, rows: &[Candidates]) -> Result<Vec<AskedRow>, ScoreError> {
        let questions = Questions { codec: &self.codec, max_length: self.max_length, form: &self.form };
        tokenise_rows(rows, |row| questions.of(row))
    }

    /// P(A) of each sequence of a pass, in the order of its groups' members: computed, or as it was kept.
    fn pass(&self, batch: &BatchPlan, sequences: &[&[Vec<u32>]]) -> Result<Vec<f64>, ScoreError> {
        let count = batch.groups.iter().map(|group| group.members.len()).sum();
        let question = || {
            let group = |group: &PrefixGroup| {
                let members = group.members.iter().map(|&member| &sequences[group.row][member]);
                json!([group.shared, members.collect::<Vec<_>>()])
            };
            batch.groups.iter().map(group).collect()
        };
        self.kept.pass("pair-lm", count, question, || self.forward(batch, sequences))
    }

    /// One forward pass.
    fn forward(&self, batch: &BatchPlan, sequences: &[&[Vec<u32>]]) -> Result<Vec<f64>, ScoreError> {
        let mut packed = PackedBatch::new();
        let mut last_rows = Vec::new();
        for group in &batch.groups {
            let row = sequences[group.row];
            let rows = PackedGroup::push(&mut packed, group, row);
            let last = |(member, &sequence): (usize, &usize)| rows.row(member, row[sequence].len() - 1);
            last_rows.extend(group.members.iter().enumerate().map(last));
        }
        let hidden = self.decoder.hidden_rows(&packed, &last_rows)?;
        let rows: Vec<usize> = (0..last_rows.len()).collect();
        // Their difference is that of the two logits, whatever the rest of the vocabulary has.
        let log_probs = |answer: u32| self.decoder.token_log_probs(&hidden, &rows, &vec![answer; rows.len()]);
        let [a, b] = self.answers;
        let of_both = log_probs(a)?.into_iter().zip(log_probs(b)?);
        Ok(of_both.map(|(a, b)| 1.0 / (1.0 + (f64::from(b) - f64::from(a)).exp())).collect())
    }
}

impl PreferenceModel for PairLm {
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError> {
        let answered = self.ask(rows, progress)?;
        let compared = rows
            .iter()
            .zip(&answered)
            .map(|(row, answered)| preference(row, |i, j| self.factor * logit(answered.probability(i, j))));
        let compared = compared.collect::<Result<Vec<Preference>, ScoreError>>()?;
        Ok(if compared.len() == rows.len() { Compared::All(compared) } else { Compared::Stopped(compared) })
    }

    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let answered = self.ask(&rows, &mut |_| std::ops::ControlFlow::Continue(()))?;
        Ok(answered.iter().map(|row| row.probability(0, 1)).collect())
    }

    fn contest_runs(&self, contests: &[Contest]) -> Result<Vec<Vec<usize>>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let asked = self.questions(&rows)?;
        let sequences: Vec<&[Vec<u32>]> = asked.iter().map(|row| row.sequences.as_slice()).collect();
        Ok(runs(&sequences, self.batch_tokens))
    }

    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError> {
        let rows: Vec<Candidates> = contests.iter().map(Contest::candidates).collect();
        let answered = self.ask(&rows, &mut |_| std::ops::ControlFlow::Continue(()))?;
        let outcome = |row: &AnsweredRow| ContestOutcome {
            score: logit(row.probability(0, 1)),
            // P(A | 0, 1), and P(B | 1, 0).
            shown: Some([row.p_first[0], 1.0 - row.p_first[1]]),
        };
        Ok(answered.iter().map(outcome).collect())
    }

    fn footprint(&self) -> Footprint {
        load::footprint_of(self.decoder.architecture(), self.decoder.parameters().element_count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_orders_are_averaged() {
        // P(A | i, j) of (0,1), (0,2), (1,0), (1,2), (2,0), (2,1).
        let row = AnsweredRow { p_first: vec![0.9, 0.5, 0.3, 0.2, 0.6, 0.7], responses: 3 };
        assert!((row.probability(0, 1) - (0.9 + 0.7) / 2.0).abs() < 1e-15);
        assert!((row.probability(1, 0) - (0.3 + 0.1) / 2.0).abs() < 1e-15);
        assert!((row.probability(2, 1) - (0.7 + 0.8) / 2.0).abs() < 1e-15);
        assert!((row.probability(0, 2) - (0.5 + 0.4) / 2.0).abs() < 1e-15);
    }
}
