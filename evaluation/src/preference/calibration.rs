//! Whether a probability means what it says.
//!
//! A comparison's confidence is max(P, 1 − P), from ½ to 1; it is right where the likelier response is the labelled winner. The
//! expected calibration error is Σ (n_b/n) |right_b − confidence_b| over ten bins of equal width.

use serde::Serialize;

use super::{JudgedPair, sigmoid};

/// Bins of the confidence from ½ to 1.
const BINS: usize = 10;

/// How probabilities and outcomes go together, over the comparisons with a labelled winner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Calibration {
    /// Expected calibration error.
    pub ece: f64,
    /// Mean −log P(labelled winner), in nats.
    pub log_loss: f64,
    /// Mean (1 − P(labelled winner))².
    pub brier: f64,
    /// The bins that hold a comparison.
    pub reliability: Vec<ReliabilityBin>,
}

/// The comparisons of one range of confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ReliabilityBin {
    /// The range's lower end.
    pub low: f64,
    /// The range's upper end.
    pub high: f64,
    /// Comparisons.
    pub n: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// Share of them that is ordered rightly.
    pub accuracy: f64,
}

#[derive(Clone, Copy, Default)]
struct BinTotals {
    n: usize,
    confidence: f64,
    right: f64,
}

pub(super) fn of(pairs: &[JudgedPair]) -> Option<Calibration> {
    let mut bins = [BinTotals::default(); BINS];
    let (mut n, mut log_loss, mut brier) = (0_usize, 0.0, 0.0);
    for pair in pairs {
        let (Some(credit), Some(p)) = (pair.credit(), pair.winner_probability()) else { continue };
        let confidence = sigmoid(pair.score.abs());
        let bin = &mut bins[(((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1)];
        bin.n += 1;
        bin.confidence += confidence;
        bin.right += credit;
        n += 1;
        // log P from the score itself: P may round to 0.
        let s = if p < 0.5 { -pair.score.abs() } else { pair.score.abs() };
        log_loss += (-s).max(0.0) + (-s.abs()).exp().ln_1p();
        brier += (1.0 - p) * (1.0 - p);
    }
    if n == 0 {
        return None;
    }
    let count = n as f64;
    let ece = bins.iter().map(|bin| (bin.right - bin.confidence).abs()).sum::<f64>() / count;
    let edge = |bin: usize| 0.5 + bin as f64 / (2.0 * BINS as f64);
    let filled = bins.iter().enumerate().filter(|(_, totals)| totals.n > 0);
    let reliability = filled.map(|(bin, totals)| ReliabilityBin {
        low: edge(bin),
        high: edge(bin + 1),
        n: totals.n,
        confidence: totals.confidence / totals.n as f64,
        accuracy: totals.right / totals.n as f64,
    });
    Some(Calibration {
        ece,
        log_loss: log_loss / count,
        brier: brier / count,
        reliability: reliability.collect(),
    })
}
