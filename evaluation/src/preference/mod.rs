//! How well a preference model agrees with labelled comparisons: plain arithmetic over scores and labels.
//!
//! | file | what |
//! |---|---|
//! | `proportion` | a share with its Wilson interval |
//! | `accuracy` | which comparisons are ordered rightly; ties; by subset |
//! | `reward_bench` | RewardBench's sections and weights |
//! | `calibration` | expected calibration error and its reliability table, log loss, Brier score |
//! | `orders` | kinds that are shown two responses in an order: what the order does |
//! | `length` | accuracy against the difference of lengths, correlation of score and length |
//! | `cycles` | cyclic triads, and accuracy where the labels themselves go in a circle |
//! | `agreement` | several annotators: each with the model, and with each other |
//!
//! A comparison that the labels call a tie has no winner: it counts in `ties` and in the agreement with annotators, and not in
//! accuracies. A tie of the model's counts half.

mod accuracy;
mod agreement;
mod calibration;
mod cycles;
mod length;
mod orders;
mod proportion;
mod reward_bench;

use serde::Serialize;

pub use self::accuracy::{SubsetAccuracy, TieCounts};
pub use self::agreement::{AnnotatorAgreement, AnnotatorsReport};
pub use self::calibration::{Calibration, ReliabilityBin};
pub use self::cycles::CycleReport;
pub use self::length::{LengthBand, LengthReport};
pub use self::orders::OrderReport;
pub use self::proportion::Proportion;
pub use self::reward_bench::{RewardBenchReport, SectionScore};

/// Who wins a comparison of two responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Winner {
    /// The first response: of a pair, the chosen one.
    First,
    /// Neither.
    Tie,
    /// The second response.
    Second,
}

impl Winner {
    /// By the sign of s(first ≻ second).
    pub fn of_score(score: f64) -> Self {
        match score {
            s if s > 0.0 => Self::First,
            s if s < 0.0 => Self::Second,
            _ => Self::Tie,
        }
    }

    /// What most say; a tie where no side has more than the other.
    pub fn majority(votes: &[Self]) -> Self {
        let count = |wanted| votes.iter().filter(|&&vote| vote == wanted).count();
        let (first, tie, second) = (count(Self::First), count(Self::Tie), count(Self::Second));
        match (first > second.max(tie), second > first.max(tie)) {
            (true, _) => Self::First,
            (_, true) => Self::Second,
            _ => Self::Tie,
        }
    }
}

/// One comparison: what its labels say, and what the preference model says.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgedPair {
    /// The prompt as text: comparisons of one prompt may form cycles.
    pub prompt: String,
    /// The first response.
    pub first: String,
    /// The second response.
    pub second: String,
    /// Who wins by the labels.
    pub label: Winner,
    /// What each annotator says, where several have judged; the same number in every comparison of a file.
    pub annotators: Vec<Winner>,
    /// The part of the file that it belongs to.
    pub subset: Option<String>,
    /// The model's s(first ≻ second).
    pub score: f64,
    /// P(first ≻ second) with the first response shown first, and with it shown second; `None` of a kind that knows no order.
    pub shown: Option<[f64; 2]>,
}

impl JudgedPair {
    /// 1 where the model has the labelled winner, ½ for a tie of the model's, else 0; `None` where the labels have none.
    fn credit(&self) -> Option<f64> {
        let model = Winner::of_score(self.score);
        match (self.label, model) {
            (Winner::Tie, _) => None,
            (_, Winner::Tie) => Some(0.5),
            (label, model) => Some(f64::from(u8::from(label == model))),
        }
    }

    /// P(the labelled winner wins) by the model; `None` where the labels have none.
    fn winner_probability(&self) -> Option<f64> {
        match self.label {
            Winner::First => Some(sigmoid(self.score)),
            Winner::Second => Some(sigmoid(-self.score)),
            Winner::Tie => None,
        }
    }

    /// Characters of the first response less those of the second.
    fn length_difference(&self) -> f64 {
        self.first.chars().count() as f64 - self.second.chars().count() as f64
    }
}

/// Everything that `eval-preference` reports. Rates are shares from 0 to 1, but for RewardBench's, which are percentages.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreferenceReport {
    /// Comparisons.
    pub comparisons: usize,
    /// Share of comparisons with a labelled winner that the model orders rightly; `None` where no label has a winner.
    pub accuracy: Option<Proportion>,
    /// Ties of labels and of the model.
    pub ties: TieCounts,
    /// By the column `subset`, in the order of their names; empty without one.
    pub subsets: Vec<SubsetAccuracy>,
    /// Where subsets are RewardBench's.
    pub reward_bench: Option<RewardBenchReport>,
    /// `None` as `accuracy`.
    pub calibration: Option<Calibration>,
    /// Of kinds that are shown two responses in an order.
    pub orders: Option<OrderReport>,
    /// Length of the responses.
    pub length: LengthReport,
    /// Cycles among the comparisons of a prompt.
    pub cycles: CycleReport,
    /// Where several annotators have judged.
    pub annotators: Option<AnnotatorsReport>,
}

/// The report on all comparisons.
pub fn report(pairs: &[JudgedPair]) -> PreferenceReport {
    let subsets = accuracy::by_subset(pairs);
    PreferenceReport {
        comparisons: pairs.len(),
        accuracy: accuracy::of(pairs),
        ties: accuracy::ties(pairs),
        reward_bench: reward_bench::score(&subsets),
        subsets,
        calibration: calibration::of(pairs),
        orders: orders::of(pairs),
        length: length::of(pairs),
        cycles: cycles::of(pairs),
        annotators: agreement::of(pairs),
    }
}

/// σ(x), without overflow on either side.
fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

#[cfg(test)]
mod tests;
