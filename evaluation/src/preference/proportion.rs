//! A share with its confidence interval.

use serde::Serialize;

/// The two-sided 95 % quantile of the normal distribution.
pub(super) const Z: f64 = 1.959_963_984_540_054;

/// A share of `n` cases with Wilson's 95 % interval, which stays inside of 0 and 1 and is right for few cases too.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Proportion {
    /// Cases.
    pub n: usize,
    /// The share.
    pub rate: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

impl Proportion {
    /// Of credits from 0 to 1, one a case; `None` of none.
    pub(super) fn of(credits: impl IntoIterator<Item = f64>) -> Option<Self> {
        let (mut n, mut sum) = (0, 0.0);
        for credit in credits {
            n += 1;
            sum += credit;
        }
        (n > 0).then(|| Self::new(n, sum))
    }

    /// Of `sum` in `n` cases, one or more.
    fn new(n: usize, sum: f64) -> Self {
        let (cases, rate) = (n as f64, sum / n as f64);
        let z2 = Z * Z / cases;
        let centre = (rate + z2 / 2.0) / (1.0 + z2);
        let half = Z / (1.0 + z2) * (rate * (1.0 - rate) / cases + z2 / (4.0 * cases)).sqrt();
        Self { n, rate, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_s_interval_has_its_published_values() {
        // 81 of 263: 0.2553 to 0.3662 (Newcombe 1998, table I, method 3).
        let found = Proportion::new(263, 81.0);
        assert!((found.low - 0.2553).abs() < 5e-5 && (found.high - 0.3662).abs() < 5e-5, "{found:?}");
        // 0 of 20: 0 to 0.1611; 1 of 29: 0.0061 to 0.1718.
        let none = Proportion::new(20, 0.0);
        assert!(none.low == 0.0 && (none.high - 0.1611).abs() < 5e-5, "{none:?}");
        let one = Proportion::new(29, 1.0);
        assert!((one.low - 0.0061).abs() < 5e-5 && (one.high - 0.1718).abs() < 5e-5, "{one:?}");
        assert_eq!(Proportion::of([]), None);
    }
}
