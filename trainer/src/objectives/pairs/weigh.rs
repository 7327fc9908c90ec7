//! Weights of pairs by their margins, and of single responses by how far they are from the mean of their prompt.

use super::data::PairData;
use crate::TrainError;

/// What examples are weighed by.
#[derive(Clone, Copy, Debug)]
pub(super) enum Margin {
    /// max(0, s(w ≻ l)).
    OfPairs,
    /// |ŝ|.
    OfResponses,
}

impl Margin {
    fn of(self, score: f64) -> f64 {
        match self {
            Self::OfPairs => score.max(0.0),
            Self::OfResponses => score.abs(),
        }
    }

    fn column(self) -> &'static str {
        match self {
            Self::OfPairs => "chosen_score",
            Self::OfResponses => "score",
        }
    }
}

/// Gives each example its margin over the mean of them as its weight, so that a loss has the size that it has without weights.
///
/// # Errors
/// An example without its score, or no margin above 0.
pub(super) fn weigh_by_margin(pairs: &mut PairData, margin: Margin) -> Result<(), TrainError> {
    let column = margin.column();
    let mut sum = 0.0;
    for pair in pairs.entries() {
        match pair.target.score.filter(|score| score.is_finite()) {
            Some(score) => sum += margin.of(score),
            None => {
                return Err(TrainError::example(
                    &*pair.name,
                    format!("no finite `{column}`"),
                    "the column that pair_weight = \"margin\" weighs by, or pair_weight = \"equal\"",
                ));
            }
        }
    }
    let mean = sum / pairs.len().max(1) as f64;
    if mean <= 0.0 && !pairs.is_empty() {
        return Err(TrainError::Data {
            problem: format!("no `{column}` of {} rows gives a weight above 0", pairs.len()),
            want: "margins to weigh by, or pair_weight = \"equal\"".into(),
        });
    }
    for pair in pairs.entries_mut() {
        pair.target.weight = pair.target.score.map(|score| margin.of(score) / mean);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::TokenPair;
    use super::*;
    use crate::PreferenceTarget;

    fn pairs(scores: &[Option<f64>]) -> PairData {
        let pair = |&score: &Option<f64>| TokenPair {
            name: "pair 7".into(),
            target: PreferenceTarget { score, ..PreferenceTarget::default() },
            ..TokenPair::default()
        };
        scores.iter().map(pair).collect::<Vec<_>>().into()
    }

    #[test]
    fn weights_have_a_mean_of_one() {
        let mut three = pairs(&[Some(3.0), Some(-1.0), Some(1.5)]);
        let weights = |pairs: &PairData| -> Vec<f64> {
            pairs.entries().iter().map(|pair| pair.target.weight.unwrap()).collect()
        };
        weigh_by_margin(&mut three, Margin::OfPairs).unwrap();
        assert_eq!(weights(&three), [2.0, 0.0, 1.0]);
        let mut responses = pairs(&[Some(3.0), Some(-1.0), Some(0.5)]);
        weigh_by_margin(&mut responses, Margin::OfResponses).unwrap();
        assert_eq!(weights(&responses), [2.0, 2.0 / 3.0, 1.0 / 3.0]);
        let mut responses = pairs(&[Some(1.0), None]);
        let error = weigh_by_margin(&mut responses, Margin::OfResponses).unwrap_err().to_string();
        assert!(error.contains("pair 7") && error.contains("`score`"), "{error}");
        let error = weigh_by_margin(&mut pairs(&[Some(1.0), None]), Margin::OfPairs).unwrap_err().to_string();
        assert!(error.contains("pair 7") && error.contains("chosen_score"), "{error}");
        let mut none = pairs(&[Some(-1.0), Some(0.0)]);
        let error = weigh_by_margin(&mut none, Margin::OfPairs).unwrap_err().to_string();
        assert!(error.contains("2 rows") && error.contains("equal"), "{error}");
    }
}
