//! The port between the engine and every kind of preference model: candidates in, a table of preferences out.

use std::ops::ControlFlow;

use selfplay_model::preference::score::sigmoid;
use selfplay_records::{Candidates, Preference};

use crate::{Contest, ContestOutcome, Footprint, ScoreError};

/// Called with the number of prompts that are compared so far; `Break` stops the call.
pub type CompareProgress<'a> = dyn FnMut(usize) -> ControlFlow<()> + 'a;

/// Compares responses to the same prompt.
///
/// **What the K×K table holds.** `scores[i][j]` is s(i ≻ j) and `probabilities[i][j]` is P(i ≻ j) = σ(s(i ≻ j)), both
/// independent of the order in which a model is shown the two: a kind with a position bias compares in both orders and
/// combines the results, so that every table is antisymmetric. The diagonal is 0 and ½. Callers read the entry that they mean
/// and never make one from its mirror image: rounding, and kinds that answer a question twice in two ways, are the
/// model's concern alone.
pub trait PreferenceModel: Send + Sync {
    /// Compares the K responses of each row, in the rows' order; K may differ between rows. `progress` is called
    /// between prompts, or between the passes of a kind that works on several prompts at a time.
    ///
    /// # Errors
    /// A row without text, a conversation that the model cannot take, an answer that is not a finite number, each with
    /// its `prompt_id`.
    fn compare(
        &self,
        rows: &[Candidates],
        progress: &mut CompareProgress<'_>,
    ) -> Result<Compared, ScoreError>;

    /// P(first ≻ second) of each contest, in order, independent of the order in which the two are shown. It is the model's own
    /// probability, whatever `score_difference` stores. The probability of the reversed contest need not be one minus this.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::compare`].
    fn win_probabilities(&self, contests: &[Contest]) -> Result<Vec<f64>, ScoreError>;

    /// The contests that pass the model together, apart from all others, by place: asked for the contests of one of these runs, or of
    /// neighbouring ones, in the order of their places, [`PreferenceModel::win_probabilities`] gives each the bits that it has among all of
    /// them. Every contest is in one run. A model that knows no such borders has one run.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::compare`].
    fn contest_runs(&self, contests: &[Contest]) -> Result<Vec<Vec<usize>>, ScoreError> {
        Ok(vec![(0..contests.len()).collect()])
    }

    /// The same contests with all that the model says of each: what `eval-preference` measures.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::compare`].
    fn outcomes(&self, contests: &[Contest]) -> Result<Vec<ContestOutcome>, ScoreError>;

    /// Its memory and operations: equal to [`Footprint::of_folder`] of its folder.
    fn footprint(&self) -> Footprint;

    /// Compares all rows, without progress and without a stop.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::compare`].
    fn compare_all(&self, rows: &[Candidates]) -> Result<Vec<Preference>, ScoreError> {
        let (Compared::All(preferences) | Compared::Stopped(preferences)) =
            self.compare(rows, &mut |_| ControlFlow::Continue(()))?;
        Ok(preferences)
    }
}

/// How a comparison ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Compared {
    /// Every row was compared.
    All(Vec<Preference>),
    /// `progress` stopped the call before that. These rows at the front were complete by then, each with the bits that
    /// [`Compared::All`] would have had; there may be none.
    Stopped(Vec<Preference>),
}

/// A row's K² scores, probabilities and means from the scores of i < j; the self terms are 0 and ½. s is negated for the
/// other half, so that means, ties and pairs do not depend on rounding.
///
/// # Errors
/// [`ScoreError::NotFinite`] with the prompt and the first response of the pair.
pub(crate) fn preference(
    row: &Candidates,
    score: impl Fn(usize, usize) -> f64,
) -> Result<Preference, ScoreError> {
    let (prompt_id, k) = (&row.prompt.prompt_id, row.responses.len());
    let mut scores = vec![vec![0.0; k]; k];
    for (i, j) in (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j))) {
        let s = score(i, j);
        if !s.is_finite() {
            let prompt_id = prompt_id.clone();
            return Err(ScoreError::NotFinite { prompt_id, response: i, what: "score" });
        }
        scores[i][j] = s;
        // 0 − s and not −s: a tie stays +0 in the files.
        scores[j][i] = 0.0 - s;
    }
    let probabilities: Vec<Vec<f64>> =
        scores.iter().map(|row| row.iter().map(|&s| sigmoid(s)).collect()).collect();
    Ok(Preference {
        prompt_id: prompt_id.clone(),
        mean_scores: scores.iter().map(|row| mean(row)).collect(),
        mean_probabilities: probabilities.iter().map(|row| mean(row)).collect(),
        scores,
        probabilities,
        candidates_digest: Some(row.digest()),
        embeddings: None,
        advantages: None,
        axis_advantages: None,
        axis_rewards: None,
    })
}

fn mean(row: &[f64]) -> f64 {
    if row.is_empty() { 0.0 } else { row.iter().sum::<f64>() / row.len() as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use selfplay_records::{HasKind, Kind, Prompt, Response};

    use super::*;

    fn row_of(prompt_id: &str, k: usize) -> Candidates {
        let prompt = Prompt { prompt_id: prompt_id.to_owned(), ..Prompt::default() };
        Candidates { prompt, responses: vec![Response::default(); k] }
    }

    #[test]
    fn means_hold_the_self_term() {
        let table = [[0.0, 2.0, -1.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]];
        let row = preference(&row_of("p", 3), |i, j| table[i][j]).unwrap();
        assert_eq!(row.scores, [[0.0, 2.0, -1.0], [-2.0, 0.0, 4.0], [1.0, -4.0, 0.0]]);
        assert!((row.mean_scores[0] - 1.0 / 3.0).abs() < 1e-15);
        assert!((row.mean_scores[1] - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(row.mean_scores[2], -1.0);
        // σ(2) = 0.880797…, σ(−1) = 0.268941…, and ½ of itself.
        let want = (0.5 + 0.880_797_077_977_882_4 + 0.268_941_421_369_995_1) / 3.0;
        assert!((row.mean_probabilities[0] - want).abs() < 1e-15);
        assert_eq!(row.probabilities[1][1], 0.5);
    }

    #[test]
    fn one_response_and_none_are_rows_too() {
        let one = preference(&row_of("p", 1), |_, _| f64::NAN).unwrap();
        assert_eq!((one.mean_scores[0], one.mean_probabilities[0]), (0.0, 0.5));
        assert!(preference(&row_of("p", 0), |_, _| 1.0).unwrap().mean_scores.is_empty());
    }

    #[test]
    fn a_score_that_is_not_finite_names_its_place() {
        let error = preference(&row_of("q7", 3), |i, j| if (i, j) == (1, 2) { f64::INFINITY } else { 0.0 })
            .unwrap_err();
        assert!(error.kind() != Kind::Input);
        let text = error.to_string();
        assert!(text.contains("q7") && text.contains("response 1"), "{text}");
    }

    proptest! {
        #[test]
        fn tables_are_antisymmetric_and_probabilities_complementary(
            flat in proptest::collection::vec(-50.0f64..50.0, 25), k in 1usize..6,
        ) {
            let row = preference(&row_of("p", k), |i, j| flat[i * 5 + j]).unwrap();
            for i in 0..k {
                for j in 0..k {
                    prop_assert_eq!(row.scores[i][j] + row.scores[j][i], 0.0);
                    prop_assert!((row.probabilities[i][j] + row.probabilities[j][i] - 1.0).abs() < 1e-15);
                }
            }
            prop_assert!(row.mean_scores.iter().sum::<f64>().abs() < 1e-12);
        }
    }
}
