//! Held-out comparisons: P(a ≻ b) for any two responses to one prompt, and circles among candidates.
//!
//! A win rate is of the preference model itself, σ(s), also where `score_difference = "reference"` stores 2s.

use selfplay_records::{Candidates, Prompt, Response};

use crate::preference_model::sigmoid;
use crate::{PreferenceModel, ScoreError};

/// Two responses to one prompt, such as a new policy's and the old one's.
#[derive(Clone, Debug, PartialEq)]
pub struct Contest {
    /// What both answer; its text is needed.
    pub prompt: Prompt,
    /// The response whose probability of winning is asked.
    pub first: String,
    /// The response that it is held against.
    pub second: String,
}

/// P(first ≻ second) of each contest, in order.
///
/// # Errors
/// Those of [`PreferenceModel::embed`], and a score that is not finite.
pub fn win_probabilities(model: &dyn PreferenceModel, contests: &[Contest]) -> Result<Vec<f64>, ScoreError> {
    let response = |text: &str| Response { text: text.to_owned(), ..Response::default() };
    let row = |contest: &Contest| Candidates {
        prompt: contest.prompt.clone(),
        responses: vec![response(&contest.first), response(&contest.second)],
    };
    let rows: Vec<Candidates> = contests.iter().map(row).collect();
    let embedded = model.embed(&rows)?;
    let probability = |(row, contest): (crate::EmbeddedRow, &Contest)| {
        let s = match row.responses.as_slice() {
            [first, second] => model.score(first, second),
            _ => f64::NAN,
        };
        if s.is_finite() {
            return Ok(sigmoid(s));
        }
        Err(ScoreError::NotFinite { prompt_id: contest.prompt.prompt_id.clone(), response: 0, what: "score" })
    };
    embedded.into_iter().zip(contests).map(probability).collect()
}

/// Mean of the win probabilities; `None` of no contest.
pub fn mean_win_rate(probabilities: &[f64]) -> Option<f64> {
    (!probabilities.is_empty()).then(|| probabilities.iter().sum::<f64>() / probabilities.len() as f64)
}

/// Whether three candidates form a circle: each beats one of the others and loses to the other. A tie breaks it.
pub fn cyclic(scores: &[[f64; 3]; 3]) -> bool {
    let around =
        |i: usize, j: usize, k: usize| scores[i][j] > 0.0 && scores[j][k] > 0.0 && scores[k][i] > 0.0;
    around(0, 1, 2) || around(0, 2, 1)
}

/// Whether any three of K candidates form a circle; `scores` is \[K]\[K]. False for K < 3 and for ragged tables.
pub fn has_circle(scores: &[Vec<f64>]) -> bool {
    let k = scores.len();
    if scores.iter().any(|row| row.len() != k) {
        return false;
    }
    let table = |at: [usize; 3]| at.map(|i| at.map(|j| scores[i][j]));
    (0..k).any(|a| (a + 1..k).any(|b| (b + 1..k).any(|c| cyclic(&table([a, b, c])))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EmbeddedRow, Embedding, PreferenceKind, ScoreDifference, ScoreSettings};

    /// Its reward of a response is the number of its characters.
    struct Longest {
        settings: ScoreSettings,
    }

    impl PreferenceModel for Longest {
        fn kind(&self) -> PreferenceKind {
            PreferenceKind::BradleyTerry
        }
        fn settings(&self) -> &ScoreSettings {
            &self.settings
        }
        fn tau(&self) -> f64 {
            2.0
        }
        fn embed(&self, rows: &[Candidates]) -> Result<Vec<EmbeddedRow>, ScoreError> {
            let embed = |r: &Response| Embedding { value: vec![r.text.len() as f64], gate: Vec::new() };
            Ok(rows
                .iter()
                .map(|row| EmbeddedRow { responses: row.responses.iter().map(embed).collect() })
                .collect())
        }
        fn score(&self, a: &Embedding, b: &Embedding) -> f64 {
            (a.value[0] - b.value[0]) / self.tau()
        }
    }

    fn model(score_difference: ScoreDifference) -> Longest {
        Longest { settings: ScoreSettings { score_difference, embeddings: true, ..ScoreSettings::default() } }
    }

    fn candidates(texts: &[&str]) -> Candidates {
        let response = |text: &&str| Response { text: (*text).to_owned(), ..Response::default() };
        Candidates {
            prompt: Prompt { prompt_id: "p".into(), prompt: Some("x".into()), ..Prompt::default() },
            responses: texts.iter().map(response).collect(),
        }
    }

    #[test]
    fn a_win_rate_is_the_model_s_own_in_both_score_differences() {
        for difference in [ScoreDifference::Paper, ScoreDifference::Reference] {
            let contests = [Contest { prompt: Prompt::default(), first: "aaaa".into(), second: "aa".into() }];
            let p = win_probabilities(&model(difference), &contests).unwrap();
            assert!((p[0] - 0.731_058_578_630_004_9).abs() < 1e-15, "σ(1)");
        }
        assert_eq!(mean_win_rate(&[0.25, 0.75, 0.5]), Some(0.5));
        assert_eq!(mean_win_rate(&[]), None);
    }

    #[test]
    fn compare_doubles_s_for_the_reference_and_keeps_embeddings() {
        let rows = [candidates(&["aaaa", "aa"])];
        let paper = &model(ScoreDifference::Paper).compare(&rows).unwrap()[0];
        let reference = &model(ScoreDifference::Reference).compare(&rows).unwrap()[0];
        assert_eq!(paper.scores[0][1], 1.0);
        assert_eq!(reference.scores[0][1], 2.0);
        assert_eq!(reference.mean_scores, [1.0, -1.0]);
        assert!((reference.probabilities[0][1] - 0.880_797_077_977_882_4).abs() < 1e-15, "σ(2)");
        assert_eq!(paper.embeddings, Some(vec![vec![4.0], vec![2.0]]));
    }

    #[test]
    fn circles() {
        let circle = [[0.0, 1.0, -1.0], [-1.0, 0.0, 1.0], [1.0, -1.0, 0.0]];
        assert!(cyclic(&circle));
        let transposed = [0, 1, 2].map(|i| [0, 1, 2].map(|j| circle[j][i]));
        assert!(cyclic(&transposed));
        assert!(!cyclic(&[[0.0, 1.0, 1.0], [-1.0, 0.0, 1.0], [-1.0, -1.0, 0.0]]));
        assert!(!cyclic(&[[0.0, 1.0, 0.0], [-1.0, 0.0, 1.0], [0.0, -1.0, 0.0]]), "a tie breaks it");
    }

    #[test]
    fn a_circle_among_five_is_found_anywhere() {
        // 0 beats all; 1 > 3 > 4 > 1 is the circle; 2 loses to all.
        let mut s = vec![vec![0.0; 5]; 5];
        let mut beats = |i: usize, j: usize| {
            s[i][j] = 1.0;
            s[j][i] = -1.0;
        };
        (1..5).for_each(|j| beats(0, j));
        [1, 3, 4].into_iter().for_each(|i| beats(i, 2));
        [(1, 3), (3, 4), (4, 1)].into_iter().for_each(|(i, j)| beats(i, j));
        assert!(has_circle(&s));
        s[4][1] = -1.0;
        s[1][4] = 1.0;
        assert!(!has_circle(&s));
        assert!(!has_circle(&[]));
        assert!(!has_circle(&[vec![0.0], vec![0.0, 1.0]]));
    }
}
