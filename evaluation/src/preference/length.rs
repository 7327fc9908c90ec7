//! What length has to do with it. Lengths are characters.
//!
//! Which of two responses stands first says nothing, so correlations are taken over both orientations of every comparison:
//! r = Σ s d / √(Σ s² Σ d²), s the score and d the difference of lengths; Spearman's is the same of their ranks.

use serde::Serialize;

use super::{JudgedPair, Proportion, Winner};

/// Accuracy and score against length.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthReport {
    /// Share of comparisons with a labelled winner in which the longer response wins by the labels: the accuracy of preferring the longer one.
    pub longer_is_labelled: Option<Proportion>,
    /// Share of all comparisons of unequal length in which the model prefers the longer response.
    pub longer_is_preferred: Option<Proportion>,
    /// Pearson's correlation of score and difference of lengths; `None` where one of them is 0 throughout.
    pub correlation: Option<f64>,
    /// Spearman's.
    pub rank_correlation: Option<f64>,
    /// Accuracy by how long the labelled winner is beside the other response.
    pub bands: Vec<LengthBand>,
}

/// The comparisons whose labelled winner is so many times as long as the other response.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LengthBand {
    /// In words.
    pub winner_is: &'static str,
    /// Share that is ordered rightly.
    pub accuracy: Proportion,
}

/// Bands by the ratio of lengths: each reaches up to its bound.
const BANDS: [(f64, &str); 5] = [
    (0.5, "at most half as long"),
    (0.9, "shorter"),
    (1.1, "about as long"),
    (2.0, "longer"),
    (f64::INFINITY, "more than twice as long"),
];

pub(super) fn of(pairs: &[JudgedPair]) -> LengthReport {
    let longer = |winner: Winner, difference: f64| match winner {
        Winner::First => f64::from(u8::from(difference > 0.0)),
        Winner::Second => f64::from(u8::from(difference < 0.0)),
        Winner::Tie => 0.5,
    };
    let labelled = pairs.iter().filter(|pair| pair.label != Winner::Tie).map(|pair| {
        let difference = pair.length_difference();
        if difference == 0.0 { 0.5 } else { longer(pair.label, difference) }
    });
    let unequal = pairs.iter().filter(|pair| pair.length_difference() != 0.0);
    let preferred = unequal.map(|pair| longer(Winner::of_score(pair.score), pair.length_difference()));
    let scores: Vec<f64> = pairs.iter().map(|pair| pair.score).collect();
    let differences: Vec<f64> = pairs.iter().map(JudgedPair::length_difference).collect();
    LengthReport {
        longer_is_labelled: Proportion::of(labelled),
        longer_is_preferred: Proportion::of(preferred),
        correlation: correlation(&scores, &differences),
        rank_correlation: correlation(&signed_ranks(&scores), &signed_ranks(&differences)),
        bands: bands(pairs),
    }
}

fn bands(pairs: &[JudgedPair]) -> Vec<LengthBand> {
    let mut credits = vec![Vec::new(); BANDS.len()];
    for pair in pairs {
        let Some(credit) = pair.credit() else { continue };
        let (first, second) = (pair.first.chars().count() as f64, pair.second.chars().count() as f64);
        let (winner, loser) = if pair.label == Winner::First { (first, second) } else { (second, first) };
        // Both empty: as long.
        let ratio = if winner == loser { 1.0 } else { winner / loser };
        let band = BANDS.iter().position(|(most, _)| ratio <= *most).unwrap_or(BANDS.len() - 1);
        credits[band].push(credit);
    }
    let band = |(credits, (_, winner_is)): (Vec<f64>, (f64, &'static str))| {
        Some(LengthBand { winner_is, accuracy: Proportion::of(credits)? })
    };
    credits.into_iter().zip(BANDS).filter_map(band).collect()
}

/// Of values that stand for (x, −x) and (y, −y).
fn correlation(x: &[f64], y: &[f64]) -> Option<f64> {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let scale = (product(x, x) * product(y, y)).sqrt();
    (scale > 0.0).then(|| product(x, y) / scale)
}

/// The rank of each value among all values and their negatives, less the mean rank. Equal values share their mean rank.
fn signed_ranks(values: &[f64]) -> Vec<f64> {
    // Among 2n values that are symmetric around 0 the centred rank of x is (those below |x|, less those above), with a sign.
    let mut sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    let rank = |value: &f64| {
        let size = value.abs();
        let below = sizes.partition_point(|other| *other < size);
        let equal = sizes.partition_point(|other| *other <= size) - below;
        // A zero is its own negative.
        if size == 0.0 { 0.0 } else { value.signum() * (below as f64 + equal as f64 / 2.0) }
    };
    values.iter().map(rank).collect()
}
