//! Weights of pairs by their margins.

use super::TokenPair;
use crate::TrainError;

/// Gives each pair the weight max(0, s(w ≻ l)) over the mean of them, so that a loss has the size that it has without weights.
///
/// # Errors
/// A pair without its score, or no margin above 0.
pub(super) fn weigh_by_margin(pairs: &mut [TokenPair]) -> Result<(), TrainError> {
    let mut margins = Vec::with_capacity(pairs.len());
    for pair in pairs.iter() {
        match pair.target.score.filter(|score| score.is_finite()) {
            Some(score) => margins.push(score.max(0.0)),
            None => {
                return Err(TrainError::example(
                    pair.name.clone(),
                    "no finite `chosen_score`",
                    "the column that pair_weight = \"margin\" weighs pairs by, or pair_weight = \"equal\"",
                ));
            }
        }
    }
    let mean = margins.iter().sum::<f64>() / margins.len().max(1) as f64;
    if mean <= 0.0 && !pairs.is_empty() {
        return Err(TrainError::Data {
            problem: format!("no `chosen_score` of {} pairs is above 0", pairs.len()),
            want: "margins to weigh pairs by, or pair_weight = \"equal\"".into(),
        });
    }
    for (pair, margin) in pairs.iter_mut().zip(margins) {
        pair.target.weight = Some(margin / mean);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PreferenceTarget;

    fn pairs(scores: &[Option<f64>]) -> Vec<TokenPair> {
        let pair = |&score: &Option<f64>| TokenPair {
            name: "pair 7".into(),
            target: PreferenceTarget { score, ..PreferenceTarget::default() },
            ..TokenPair::default()
        };
        scores.iter().map(pair).collect()
    }

    #[test]
    fn weights_have_a_mean_of_one() {
        let mut three = pairs(&[Some(3.0), Some(-1.0), Some(1.5)]);
        weigh_by_margin(&mut three).unwrap();
        let weights: Vec<f64> = three.iter().map(|pair| pair.target.weight.unwrap()).collect();
        assert_eq!(weights, [2.0, 0.0, 1.0]);
        let error = weigh_by_margin(&mut pairs(&[Some(1.0), None])).unwrap_err().to_string();
        assert!(error.contains("pair 7") && error.contains("chosen_score"), "{error}");
        let error = weigh_by_margin(&mut pairs(&[Some(-1.0), Some(0.0)])).unwrap_err().to_string();
        assert!(error.contains("2 pairs") && error.contains("equal"), "{error}");
    }
}
