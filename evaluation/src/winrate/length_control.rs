//! The win rate that a model would have if its answers were as long as the baseline's.
//!
//! logit P(model wins) = w₁ tanh(d) + w₂ γ + w₃ n: d the difference of lengths (the baseline's less the model's) in standard
//! deviations of the file, γ the instruction's difficulty, n 1 for the model and 0 for the gamed baselines. The rate is the mean
//! of σ(w₂ γ + w₃) over all rows, those without a verdict too.

use super::annotations::Annotations;
use super::logistic::{self, Observation};
use super::spread;
use super::tables::GamedRow;

/// Folds of the cross-validation.
pub(super) const FOLDS: usize = 5;
/// How much each gamed row counts beside a row of the model: λ = 0.2, for two gamed baselines.
const GAMED_WEIGHT: f64 = 0.1;
/// Values of the inverse penalty that are tried: 1e-4 to 1e4, evenly in the logarithm.
const PENALTIES: usize = 10;

/// A fitted regression.
pub(super) struct LengthControl {
    /// w₁, w₂ (with tables alone), w₃.
    pub weights: Vec<f64>,
    /// The chosen C; `None` for a baseline against itself, where nothing is fitted.
    pub inverse_penalty: Option<f64>,
    /// P(model wins) at equal length, by row.
    pub rates: Vec<f64>,
}

/// Fits; `None` where fewer rows have a preference than there are folds. `published` is each row's difficulty, and the gamed
/// rows.
pub(super) fn fit(
    annotations: &Annotations,
    published: Option<(&[f64], &[GamedRow])>,
) -> Option<LengthControl> {
    let rows = annotations.preferences().len();
    let features = |length: f64, difficulty: Option<f64>, is_model: f64| -> Vec<f64> {
        [Some(length.tanh()), difficulty, Some(is_model)].into_iter().flatten().collect()
    };
    let difficulty = |row: usize| published.map(|(difficulties, _)| difficulties[row]);
    let at_equal_length: Vec<Vec<f64>> = (0..rows).map(|row| features(0.0, difficulty(row), 1.0)).collect();
    if annotations.is_baseline() {
        let weights = vec![0.0; features(0.0, difficulty(0), 1.0).len()];
        return Some(LengthControl { weights, inverse_penalty: None, rates: vec![0.5; rows] });
    }
    let gamed = published.into_iter().flat_map(|(_, gamed)| gamed).map(|row| Observation {
        features: features(row.length_difference, Some(row.difficulty), 0.0),
        target: row.preference,
        weight: GAMED_WEIGHT,
    });
    let differences = annotations.length_differences();
    let deviation = spread(&differences);
    let standard = |row: usize| if deviation > 0.0 { differences[row] / deviation } else { 0.0 };
    let own = annotations.preferences().iter().enumerate().filter_map(|(row, preference)| {
        let features = features(standard(row), difficulty(row), 1.0);
        preference.map(|target| Observation { features, target, weight: 1.0 })
    });
    let own: Vec<Observation> = own.collect();
    if own.len() < FOLDS {
        return None;
    }
    // The gamed rows come first: which row falls into which fold goes by its place.
    let observations: Vec<Observation> = gamed.chain(own).collect();
    let inverse_penalty = choose(&observations);
    let weights = logistic::fit(&observations.iter().collect::<Vec<_>>(), inverse_penalty);
    let rates = at_equal_length.iter().map(|row| logistic::sigmoid(logistic::logit(row, &weights))).collect();
    Some(LengthControl { weights, inverse_penalty: Some(inverse_penalty), rates })
}

/// The C with the least cross-entropy on rows that a fit has not seen; the smallest of equals.
fn choose(observations: &[Observation]) -> f64 {
    let mut best = (f64::INFINITY, 0.0);
    for step in 0..PENALTIES {
        let inverse_penalty = 10f64.powf(-4.0 + 8.0 * step as f64 / (PENALTIES - 1) as f64);
        let loss = (0..FOLDS).map(|fold| unseen_loss(observations, fold, inverse_penalty)).sum::<f64>();
        if loss < best.0 {
            best = (loss, inverse_penalty);
        }
    }
    best.1
}

/// Mean weighted cross-entropy on one fold, of a fit to the others.
fn unseen_loss(observations: &[Observation], fold: usize, inverse_penalty: f64) -> f64 {
    // scikit-learn's GroupKFold deals groups of equal size out from the last to the first.
    let is_unseen = |place: usize| (observations.len() - 1 - place) % FOLDS == fold;
    let (unseen, seen): (Vec<_>, Vec<_>) =
        observations.iter().enumerate().partition(|(place, _)| is_unseen(*place));
    let seen: Vec<&Observation> = seen.into_iter().map(|(_, row)| row).collect();
    let weights = logistic::fit(&seen, inverse_penalty);
    let losses = unseen.iter().map(|(_, row)| {
        row.weight * logistic::cross_entropy(logistic::logit(&row.features, &weights), row.target)
    });
    losses.sum::<f64>() / unseen.len() as f64
}
