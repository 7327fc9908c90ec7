//! What is measured on held-out comparisons: accuracy, loss and calibration.

use selfplay_model::preference::score::sigmoid;

use super::comparison::ComparisonLabel;
use super::score::preference_loss;

/// Bins of the confidence from ½ to 1.
const BINS: usize = 10;

/// Of some comparisons with their scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HeldOutFigures {
    /// Share that is ordered as the label has it; a score of 0 counts half. Labelled ties are left out; ½ of none.
    pub(super) accuracy: f64,
    /// Mean loss, without margins.
    pub(super) loss: f64,
    /// Σ |right − confidence| over bins of max(P, 1 − P), over the number of comparisons that are no ties.
    pub(super) ece: f64,
}

/// Measures comparisons of these labels; there is one or more.
pub(super) fn measure(labels: &[ComparisonLabel], scores: &[f64]) -> HeldOutFigures {
    let (mut right, mut decided, mut loss) = (0.0, 0_usize, 0.0);
    let mut bins = [0.0; BINS];
    for (label, &score) in labels.iter().zip(scores) {
        let label = ComparisonLabel { margin: 0.0, ..*label };
        loss += preference_loss(score, label).loss;
        let wins = label.probability - 0.5;
        if wins == 0.0 {
            continue;
        }
        let agrees = score * wins.signum();
        let credit = if agrees > 0.0 { 1.0 } else { 0.5 * f64::from(u8::from(agrees == 0.0)) };
        let confidence = sigmoid(score.abs());
        let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
        bins[bin] += credit - confidence;
        right += credit;
        decided += 1;
    }
    let share = |sum: f64, none: f64| if decided == 0 { none } else { sum / decided as f64 };
    HeldOutFigures {
        accuracy: share(right, 0.5),
        loss: loss / labels.len().max(1) as f64,
        ece: share(bins.iter().map(|bin| bin.abs()).sum(), 0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_decide_what_is_right() {
        let with = |probability| ComparisonLabel { probability, margin: 3.0 };
        let labels = [with(1.0), with(0.25), with(0.5), with(1.0)];
        let likely = (0.77_f64 / 0.23).ln();
        let found = measure(&labels, &[likely, likely, 0.0, 0.0]);
        // Right, wrong, a tie that doesn't count, half right.
        assert!((found.accuracy - 0.5).abs() < 1e-12);
        // A bin of two with |1 − 1.54|, and one of ½ − ½.
        assert!((found.ece - 0.54 / 3.0).abs() < 1e-12, "{found:?}");
        let (win, lose) = (-(0.77_f64.ln()), -(0.23_f64.ln()));
        let loss = (win + 0.25 * win + 0.75 * lose + 2.0 * 2f64.ln()) / 4.0;
        assert!((found.loss - loss).abs() < 1e-12, "{found:?}");
        assert_eq!(measure(&[with(0.5)], &[1.0]).accuracy, 0.5);
    }
}
