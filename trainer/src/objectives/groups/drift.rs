//! The monitor of GPRL (arXiv 2605.18721): which axes of the preference model the advantages come from, and what is done when that
//! changes.
//!
//! α_l is axis l's share of the variance of the rewards that advantages are made of, over an iteration's groups; the drift is
//! D = KL(α ‖ α_0), α_0 the share in the first iteration. The paper's digests say that above a threshold the multipliers m_l of growing axes
//! fall and that the divergence's weight rises. Everything else here is ours:
//! - α is of λ_l r^l before it is divided by its spread: afterwards every axis has the variance λ_l², whatever the policy does;
//! - one value an iteration, since all its candidates are of one policy;
//! - with D above the threshold τ, m_l = (α_0,l/α_l)^(γ (1 − τ/D)) where α_l has grown, and the weight of the divergence is multiplied by
//!   D/τ, tenfold at most. Both begin at 1 where D = τ, and nothing is remembered from one iteration to the next.

use selfplay_records::Completion;
use serde::{Deserialize, Serialize};

use crate::TrainSettings;

/// A share of 0 is taken as this one: a logarithm needs a number.
const LEAST_SHARE: f64 = 1e-12;

/// The most that the divergence's weight is multiplied by.
const MOST_KL_FACTOR: f64 = 10.0;

/// What an iteration's groups say of the axes, and what follows from it: `drift.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AxisDrift {
    /// α, by axis.
    pub shares: Vec<f64>,
    /// α_0, by axis.
    pub start: Vec<f64>,
    /// D, in nats.
    pub drift: f64,
    /// m, by axis.
    pub axis_weights: Vec<f64>,
    /// What `kl_weight` is multiplied by.
    pub kl_factor: f64,
}

impl AxisDrift {
    /// Of the shares now and at first.
    pub fn of(start: &[f64], shares: &[f64], settings: &TrainSettings) -> Self {
        let (threshold, strength) = (settings.drift_threshold(), settings.drift_strength());
        let both = || shares.iter().zip(start).map(|(&now, &then)| (now, then.max(LEAST_SHARE)));
        let terms = both().filter(|(now, _)| *now > 0.0).map(|(now, then)| now * (now / then).ln());
        let drift = terms.sum::<f64>().max(0.0);
        let excess = if drift > threshold { 1.0 - threshold / drift } else { 0.0 };
        let weight =
            |(now, then): (f64, f64)| if now > then { (then / now).powf(strength * excess) } else { 1.0 };
        Self {
            shares: shares.to_vec(),
            start: start.to_vec(),
            drift,
            axis_weights: both().map(weight).collect(),
            kl_factor: (drift / threshold).clamp(1.0, MOST_KL_FACTOR),
        }
    }
}

/// α of an iteration's rows, which are given one by one.
#[derive(Clone, Debug, Default)]
pub struct AxisShares {
    /// Σ r² by axis; `None` before the first row.
    sums: Option<Vec<f64>>,
    /// Whether a row has no axes, or not as many as the first.
    is_uneven: bool,
}

impl AxisShares {
    /// Takes in a row.
    pub fn push(&mut self, row: &Completion) {
        let rewards = row.axis_rewards.as_deref().unwrap_or_default();
        let sums = self.sums.get_or_insert_with(|| vec![0.0; rewards.len()]);
        self.is_uneven |= row.axis_rewards.is_none() || rewards.len() != sums.len();
        sums.iter_mut().zip(rewards).for_each(|(sum, reward)| *sum += reward * reward);
    }

    /// The shares, equal ones where nothing varies; `None` where there are no rows, or they have no axes, or not as many each.
    pub fn shares(self) -> Option<Vec<f64>> {
        let sums = self.sums.filter(|_| !self.is_uneven)?;
        let (axes, total) = (sums.len(), sums.iter().sum::<f64>());
        let share = |sum: f64| if total > 0.0 { sum / total } else { 1.0 / axes as f64 };
        Some(sums.into_iter().map(share).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }

    #[test]
    fn shares_are_of_the_squares() {
        let row =
            |rewards: &[f64]| Completion { axis_rewards: Some(rewards.to_vec()), ..Completion::default() };
        let axis_shares = |rows: &[Completion]| {
            let mut shares = AxisShares::default();
            rows.iter().for_each(|row| shares.push(row));
            shares.shares()
        };
        assert_eq!(axis_shares(&[row(&[1.0, 2.0]), row(&[-1.0, -4.0])]).unwrap(), [2.0 / 22.0, 20.0 / 22.0]);
        assert_eq!(axis_shares(&[row(&[0.0, 0.0])]).unwrap(), [0.5, 0.5]);
        assert_eq!(axis_shares(&[row(&[1.0]), row(&[1.0, 2.0])]), None);
        assert_eq!(axis_shares(&[row(&[1.0]), Completion::default()]), None);
        assert_eq!(axis_shares(&[Completion::default()]), None);
        assert_eq!(axis_shares(&[]), None);
    }

    #[test]
    fn nothing_is_done_below_the_threshold() {
        let settings = TrainSettings { drift_threshold: Some(0.5), ..TrainSettings::default() };
        let same = AxisDrift::of(&[0.5, 0.5], &[0.5, 0.5], &settings);
        assert_eq!((same.drift, same.axis_weights.as_slice(), same.kl_factor), (0.0, &[1.0, 1.0][..], 1.0));
        // ¾ ln 1.5 + ¼ ln ½ = 0.1308…
        let little = AxisDrift::of(&[0.5, 0.5], &[0.75, 0.25], &settings);
        close(little.drift, 0.75 * 1.5f64.ln() - 0.25 * 2.0f64.ln());
        assert_eq!((little.axis_weights.as_slice(), little.kl_factor), (&[1.0, 1.0][..], 1.0));
    }

    #[test]
    fn axes_that_grow_are_held_back_above_it() {
        let settings = TrainSettings {
            drift_threshold: Some(0.1),
            drift_strength: Some(2.0),
            ..TrainSettings::default()
        };
        let drift = AxisDrift::of(&[0.5, 0.5], &[0.75, 0.25], &settings);
        close(drift.axis_weights[0], (2.0f64 / 3.0).powf(2.0 * (1.0 - 0.1 / drift.drift)));
        assert_eq!(drift.axis_weights[1], 1.0);
        close(drift.kl_factor, drift.drift / 0.1);
        // An axis out of nothing: finite, and the factor has its bound.
        let all = AxisDrift::of(&[1.0, 0.0], &[0.0, 1.0], &settings);
        assert!(all.drift.is_finite() && all.kl_factor == MOST_KL_FACTOR && all.axis_weights[0] == 1.0);
        let off = TrainSettings { drift_strength: Some(0.0), ..settings };
        assert_eq!(AxisDrift::of(&[0.5, 0.5], &[0.75, 0.25], &off).axis_weights, [1.0, 1.0]);
    }
}
