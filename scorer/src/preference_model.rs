//! The one trait of this crate: embed each response once, score any two of them, compare all K of a prompt.
//!
//! s is antisymmetric by construction here: [`preference`] computes s(i ≻ j) for i < j and negates it for the other
//! half, so that means, ties and pairs do not depend on rounding.

use selfplay_records::{Candidates, Preference};

use crate::{PreferenceKind, ScoreError, ScoreSettings};

/// What a preference model keeps of one (prompt, response).
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// \[d]: the L2-normalised v of a GPM, or \[1]: the reward of Bradley-Terry.
    pub value: Vec<f64>,
    /// \[d/2]: λ of the prompt gate, sums to 1; empty without a prompt head (λ = 1).
    pub gate: Vec<f64>,
}

/// The embeddings of one prompt's responses, in sample order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EmbeddedRow {
    /// \[K].
    pub responses: Vec<Embedding>,
}

/// Compares responses to the same prompt.
pub trait PreferenceModel: Send + Sync {
    /// What it is; never [`PreferenceKind::Auto`].
    fn kind(&self) -> PreferenceKind;

    /// The settings that it was loaded with.
    fn settings(&self) -> &ScoreSettings;

    /// The τ that divides its scores.
    fn tau(&self) -> f64;

    /// Embeds each response of each row once, in the rows' order.
    ///
    /// # Errors
    /// A row without text, a conversation that the template refuses, or an embedding that is not finite, each with
    /// its `prompt_id`.
    fn embed(&self, rows: &[Candidates]) -> Result<Vec<EmbeddedRow>, ScoreError>;

    /// The paper's s(a ≻ b), whatever `score_difference` is; P(a ≻ b) = σ(s).
    fn score(&self, a: &Embedding, b: &Embedding) -> f64;

    /// Compares the K responses of each row, in the rows' order; K may differ between rows.
    ///
    /// # Errors
    /// Those of [`PreferenceModel::embed`], and a score that is not finite.
    fn compare(&self, rows: &[Candidates]) -> Result<Vec<Preference>, ScoreError> {
        let settings = self.settings();
        let factor = settings.score_difference.factor();
        let embedded = self.embed(rows)?;
        rows.iter()
            .zip(embedded)
            .map(|(row, embedded)| {
                let responses = &embedded.responses;
                let mut compared = preference(&row.prompt.prompt_id, responses.len(), |i, j| {
                    factor * self.score(&responses[i], &responses[j])
                })?;
                compared.candidates_digest = Some(row.digest());
                if settings.embeddings {
                    let narrow = |e: &Embedding| e.value.iter().map(|&x| x as f32).collect();
                    compared.embeddings = Some(responses.iter().map(narrow).collect());
                }
                Ok(compared)
            })
            .collect()
    }
}

/// All K² scores, probabilities and means from the scores of i < j; the self terms are 0 and ½.
///
/// # Errors
/// [`ScoreError::NotFinite`] with the prompt and the first response of the pair.
pub fn preference(
    prompt_id: &str,
    k: usize,
    score: impl Fn(usize, usize) -> f64,
) -> Result<Preference, ScoreError> {
    let mut scores = vec![vec![0.0; k]; k];
    for (i, j) in (0..k).flat_map(|i| (i + 1..k).map(move |j| (i, j))) {
        let s = score(i, j);
        if !s.is_finite() {
            let prompt_id = prompt_id.to_owned();
            return Err(ScoreError::NotFinite { prompt_id, response: i, what: "score" });
        }
        scores[i][j] = s;
        // 0 − s and not −s: a tie stays +0 in the files.
        scores[j][i] = 0.0 - s;
    }
    let probabilities: Vec<Vec<f64>> =
        scores.iter().map(|row| row.iter().map(|&s| sigmoid(s)).collect()).collect();
    Ok(Preference {
        prompt_id: prompt_id.to_owned(),
        mean_scores: scores.iter().map(|row| mean(row)).collect(),
        mean_probabilities: probabilities.iter().map(|row| mean(row)).collect(),
        scores,
        probabilities,
        candidates_digest: None,
        embeddings: None,
    })
}

/// σ(s) without overflow on either side.
pub(crate) fn sigmoid(s: f64) -> f64 {
    if s >= 0.0 {
        1.0 / (1.0 + (-s).exp())
    } else {
        let e = s.exp();
        e / (1.0 + e)
    }
}

fn mean(row: &[f64]) -> f64 {
    if row.is_empty() { 0.0 } else { row.iter().sum::<f64>() / row.len() as f64 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use selfplay_records::{HasKind, Kind};

    use super::*;

    #[test]
    fn means_hold_the_self_term() {
        let table = [[0.0, 2.0, -1.0], [0.0, 0.0, 4.0], [0.0, 0.0, 0.0]];
        let row = preference("p", 3, |i, j| table[i][j]).unwrap();
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
        let one = preference("p", 1, |_, _| f64::NAN).unwrap();
        assert_eq!((one.mean_scores[0], one.mean_probabilities[0]), (0.0, 0.5));
        assert!(preference("p", 0, |_, _| 1.0).unwrap().mean_scores.is_empty());
    }

    #[test]
    fn a_score_that_is_not_finite_names_its_place() {
        let error =
            preference("q7", 3, |i, j| if (i, j) == (1, 2) { f64::INFINITY } else { 0.0 }).unwrap_err();
        assert!(error.kind() != Kind::Input);
        let text = error.to_string();
        assert!(text.contains("q7") && text.contains("response 1"), "{text}");
    }

    #[test]
    fn sigmoid_keeps_its_tails() {
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(1e4), 1.0);
        assert_eq!(sigmoid(-1e4), 0.0);
        assert!((sigmoid(-40.0) - (-40f64).exp()).abs() < 1e-30);
    }

    proptest! {
        #[test]
        fn tables_are_antisymmetric_and_probabilities_complementary(
            flat in proptest::collection::vec(-50.0f64..50.0, 25), k in 1usize..6,
        ) {
            let row = preference("p", k, |i, j| flat[i * 5 + j]).unwrap();
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
