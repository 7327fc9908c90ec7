//! Means with the standard errors that lm-eval reports.

use serde::{Deserialize, Serialize};

/// A figure of a suite over its rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// The mean.
    pub value: f64,
    /// The sample's deviation (with n − 1) over √n; `None` of a single row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_error: Option<f64>,
    /// Rows.
    pub n: usize,
}

impl Average {
    /// The mean of these; `None` of none.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let n = values.len();
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let error = (squares / (n as f64 - 1.0)).sqrt() / (n as f64).sqrt();
        Some(Self { value: mean, standard_error: (n > 1).then_some(error), n })
    }

    /// Several groups as one: the mean by rows, and the standard error of deviations from each group's own mean, as lm-eval pools its
    /// subtasks.
    pub fn pooled(groups: &[Self]) -> Option<Self> {
        let n: usize = groups.iter().map(|group| group.n).sum();
        if n == 0 {
            return None;
        }
        let mean = groups.iter().map(|group| group.value * group.n as f64).sum::<f64>() / n as f64;
        let squares = |group: &Self| {
            let n = group.n as f64;
            group.standard_error.unwrap_or(0.0).powi(2) * n * (n - 1.0)
        };
        let freedom = n.saturating_sub(groups.len());
        let variance = groups.iter().map(squares).sum::<f64>() / freedom as f64;
        let error = (freedom > 0).then(|| (variance / n as f64).sqrt());
        Some(Self { value: mean, standard_error: error, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standard_error_has_one_freedom_less_than_rows() {
        let one = Average::of(&[1.0, 0.0, 1.0, 1.0]).unwrap();
        // Deviations ¼, ¾, ¼, ¼: squares sum to ¾, over 3 is ¼, its root ½, over √4 is ¼.
        assert_eq!((one.value, one.standard_error, one.n), (0.75, Some(0.25), 4));
        assert_eq!(Average::of(&[]), None);
        assert_eq!(Average::of(&[2.0]).unwrap().standard_error, None);
    }

    #[test]
    fn pooled_groups_keep_their_own_means() {
        let groups = [Average::of(&[1.0, 0.0]).unwrap(), Average::of(&[1.0, 1.0, 1.0, 0.0]).unwrap()];
        let pooled = Average::pooled(&groups).unwrap();
        assert!((pooled.value - 4.0 / 6.0).abs() < 1e-15);
        // Squares within groups: ½ + ¾; over 6 − 2 rows, over 6.
        assert!((pooled.standard_error.unwrap() - (1.25f64 / 4.0 / 6.0).sqrt()).abs() < 1e-15);
        assert_eq!(Average::pooled(&[]), None);
    }
}
