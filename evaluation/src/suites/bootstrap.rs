//! The paired bootstrap (Efron and Tibshirani; Koehn 2004): how sure a difference between two models is, from the same rows of both.

use selfplay_records::counter::{fnv1a_64, key};
use serde::{Deserialize, Serialize};

/// Draws of as many rows as there are.
pub const DRAWS: usize = 10_000;

/// A difference of means on the same rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Rows that both have.
    pub n: usize,
    /// Mean of the first less mean of the second.
    pub difference: f64,
    /// The 2.5th percentile of the difference over the draws.
    pub low: f64,
    /// The 97.5th.
    pub high: f64,
    /// Two-sided: twice the share of draws whose difference is 0 or of the other sign, at most 1.
    pub p: f64,
}

/// The first's values less the second's, row by row; the same draws for the same `name`. `None` without rows.
pub fn paired_bootstrap(pairs: &[(f64, f64)], name: &str) -> Option<PairedDifference> {
    let n = pairs.len();
    if n == 0 {
        return None;
    }
    let differences: Vec<f64> = pairs.iter().map(|(first, second)| first - second).collect();
    let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n as f64;
    let difference = mean(&mut differences.iter().copied());
    let seed = fnv1a_64(name.as_bytes());
    let mut drawn: Vec<f64> = (0..DRAWS as u64)
        .map(|draw| {
            // A number of 64 bits times n, its upper half: even up to one part in 2⁶⁴⁄n.
            let place = |row: usize| ((u128::from(key(seed, [draw, row as u64])) * n as u128) >> 64) as usize;
            mean(&mut (0..n).map(|row| differences[place(row)]))
        })
        .collect();
    drawn.sort_unstable_by(f64::total_cmp);
    let percentile = |share: f64| drawn[((DRAWS - 1) as f64 * share).round() as usize];
    let other = |value: &&f64| if difference >= 0.0 { **value <= 0.0 } else { **value >= 0.0 };
    let p = (2.0 * drawn.iter().filter(other).count() as f64 / DRAWS as f64).min(1.0);
    Some(PairedDifference { n, difference, low: percentile(0.025), high: percentile(0.975), p })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_as_wide_as_its_standard_error_says() {
        // 400 rows, of which the first model has 60 % right and the second 50 %, independently.
        let right = |row: u64, salt: u64, percent: u64| f64::from(u8::from(key(salt, [row]) % 100 < percent));
        let pairs: Vec<(f64, f64)> = (0..400).map(|row| (right(row, 1, 60), right(row, 2, 50))).collect();
        let found = paired_bootstrap(&pairs, "x").unwrap();
        let mean = pairs.iter().map(|(a, b)| a - b).sum::<f64>() / 400.0;
        let variance = pairs.iter().map(|(a, b)| (a - b - mean).powi(2)).sum::<f64>() / 400.0;
        let width = 2.0 * 1.96 * (variance / 400.0).sqrt();
        assert!((found.difference - mean).abs() < 1e-12);
        assert!(((found.high - found.low) / width - 1.0).abs() < 0.05, "{found:?} {width}");
        assert_eq!(paired_bootstrap(&pairs, "x"), Some(found));
    }

    #[test]
    fn equal_models_differ_by_nothing_and_clear_ones_surely() {
        let same = paired_bootstrap(&[(1.0, 1.0), (0.0, 0.0)], "x").unwrap();
        assert_eq!((same.difference, same.low, same.high, same.p), (0.0, 0.0, 0.0, 1.0));
        let clear = paired_bootstrap(&[(1.0, 0.0); 30], "x").unwrap();
        assert_eq!((clear.low, clear.p), (1.0, 0.0));
        assert_eq!(paired_bootstrap(&[], "x"), None);
    }
}
