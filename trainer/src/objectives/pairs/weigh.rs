//! Weights of pairs by their margins.

use super::data::PairData;
use crate::TrainError;

/// Gives each pair the weight max(0, s(w ≻ l)) over the mean of them, so that a loss has the size that it has without weights.
///
/// # Errors
/// A pair without its score, or no margin above 0.
pub(super) fn weigh_by_margin(pairs: &mut PairData) -> Result<(), TrainError> {
    let mut sum = 0.0;
    for pair in pairs.entries() {
        match pair.target.score.filter(|score| score.is_finite()) {
            Some(score) => sum += score.max(0.0),
            None => {
                return Err(TrainError::example(
                    &*pair.name,
                    "no finite `chosen_score`",
                    "the column that pair_weight = \"margin\" weighs pairs by, or pair_weight = \"equal\"",
                ));
            }
        }
    }
    let mean = sum / pairs.len().max(1) as f64;
    if mean <= 0.0 && !pairs.is_empty() {
        return Err(TrainError::Data {
            problem: format!("no `chosen_score` of {} pairs is above 0", pairs.len()),
            want: "margins to weigh pairs by, or pair_weight = \"equal\"".into(),
        });
    }
    for pair in pairs.entries_mut() {
        pair.target.weight = pair.target.score.map(|score| score.max(0.0) / mean);
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
        weigh_by_margin(&mut three).unwrap();
        let weights: Vec<f64> = three.entries().iter().map(|pair| pair.target.weight.unwrap()).collect();
        assert_eq!(weights, [2.0, 0.0, 1.0]);
        let error = weigh_by_margin(&mut pairs(&[Some(1.0), None])).unwrap_err().to_string();
        assert!(error.contains("pair 7") && error.contains("chosen_score"), "{error}");
        let error = weigh_by_margin(&mut pairs(&[Some(-1.0), Some(0.0)])).unwrap_err().to_string();
        assert!(error.contains("2 pairs") && error.contains("equal"), "{error}");
    }
}
