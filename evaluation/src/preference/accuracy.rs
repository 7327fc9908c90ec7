//! Which comparisons are ordered rightly, over all and by subset, and what ties there are.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{JudgedPair, Proportion, Winner, sigmoid};

/// The accuracy on the comparisons of one subset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubsetAccuracy {
    /// Its name in the column `subset`.
    pub subset: String,
    /// Share that is ordered rightly.
    pub accuracy: Proportion,
}

/// Ties on either side.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TieCounts {
    /// Comparisons that the labels call a tie.
    pub labelled: usize,
    /// Comparisons that the model calls a tie: s = 0 exactly.
    pub model: usize,
    /// Both at once.
    pub both: usize,
    /// Mean |P − ½| of the model where the labels call a tie.
    pub distance_when_tied: Option<f64>,
    /// Mean |P − ½| of the model where the labels have a winner.
    pub distance_when_decided: Option<f64>,
}

pub(super) fn of(pairs: &[JudgedPair]) -> Option<Proportion> {
    Proportion::of(pairs.iter().filter_map(JudgedPair::credit))
}

/// Subsets in which the labels have a winner, by name.
pub(super) fn by_subset(pairs: &[JudgedPair]) -> Vec<SubsetAccuracy> {
    let mut credits: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for pair in pairs {
        if let (Some(subset), Some(credit)) = (&pair.subset, pair.credit()) {
            credits.entry(subset).or_default().push(credit);
        }
    }
    let accuracy = |(subset, credits): (&str, Vec<f64>)| {
        Some(SubsetAccuracy { subset: subset.to_owned(), accuracy: Proportion::of(credits)? })
    };
    credits.into_iter().filter_map(accuracy).collect()
}

pub(super) fn ties(pairs: &[JudgedPair]) -> TieCounts {
    let is_labelled = |pair: &&JudgedPair| pair.label == Winner::Tie;
    let is_model = |pair: &&JudgedPair| Winner::of_score(pair.score) == Winner::Tie;
    let distance = |tied: bool| {
        let of = pairs.iter().filter(|pair| is_labelled(pair) == tied);
        let distances: Vec<f64> = of.map(|pair| (sigmoid(pair.score) - 0.5).abs()).collect();
        (!distances.is_empty()).then(|| distances.iter().sum::<f64>() / distances.len() as f64)
    };
    TieCounts {
        labelled: pairs.iter().filter(is_labelled).count(),
        model: pairs.iter().filter(is_model).count(),
        both: pairs.iter().filter(is_labelled).filter(is_model).count(),
        distance_when_tied: distance(true),
        distance_when_decided: distance(false),
    }
}
