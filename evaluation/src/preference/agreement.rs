//! Several annotators: how each agrees with the model, and all of them with each other.

use serde::Serialize;

use super::{JudgedPair, Proportion, Winner};

/// Agreement where several annotators have judged each comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AnnotatorsReport {
    /// By annotator, in the columns' order.
    pub annotators: Vec<AnnotatorAgreement>,
    /// The model with what most annotators say.
    pub majority: AnnotatorAgreement,
    /// Mean over pairs of annotators of the share of comparisons in which both say the same, ties among it; `None` of one annotator.
    pub between_annotators: Option<f64>,
    /// Fleiss' kappa of the annotators; `None` of one annotator, or where all say the same of everything.
    pub kappa: Option<f64>,
}

/// The model beside one annotator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct AnnotatorAgreement {
    /// Share of comparisons in which the annotator has a winner and the model has the same; a tie of the model's counts half.
    pub agreement: Option<Proportion>,
    /// Share of all comparisons in which both say the same, ties among it.
    pub with_ties: Proportion,
    /// Cohen's kappa over the three outcomes; `None` where chance alone agrees fully.
    pub kappa: Option<f64>,
}

const OUTCOMES: [Winner; 3] = [Winner::First, Winner::Tie, Winner::Second];

/// `None` without annotators.
pub(super) fn of(pairs: &[JudgedPair]) -> Option<AnnotatorsReport> {
    let judged: Vec<&JudgedPair> = pairs.iter().filter(|pair| !pair.annotators.is_empty()).collect();
    let count = judged.iter().map(|pair| pair.annotators.len()).min()?;
    let annotators = (0..count).filter_map(|annotator| beside(&judged, |pair| pair.annotators[annotator]));
    Some(AnnotatorsReport {
        annotators: annotators.collect(),
        majority: beside(&judged, |pair| Winner::majority(&pair.annotators))?,
        between_annotators: between(&judged, count),
        kappa: fleiss(&judged, count),
    })
}

fn beside(pairs: &[&JudgedPair], says: impl Fn(&JudgedPair) -> Winner) -> Option<AnnotatorAgreement> {
    let credit = |pair: &&JudgedPair| JudgedPair { label: says(pair), ..(*pair).clone() }.credit();
    let both = |pair: &&JudgedPair| (Winner::of_score(pair.score), says(pair));
    let same = pairs.iter().map(|pair| f64::from(u8::from(both(pair).0 == both(pair).1)));
    let with_ties = Proportion::of(same)?;
    let share = |of: &dyn Fn(&&JudgedPair) -> Winner, outcome: Winner| {
        pairs.iter().filter(|pair| of(pair) == outcome).count() as f64 / pairs.len() as f64
    };
    let by_chance: f64 =
        OUTCOMES.iter().map(|&one| share(&|pair| both(pair).0, one) * share(&|pair| both(pair).1, one)).sum();
    Some(AnnotatorAgreement {
        agreement: Proportion::of(pairs.iter().filter_map(credit)),
        with_ties,
        kappa: kappa(with_ties.rate, by_chance),
    })
}

fn between(pairs: &[&JudgedPair], count: usize) -> Option<f64> {
    let two = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    let shares = two.map(|(a, b)| {
        let same = pairs.iter().filter(|pair| pair.annotators[a] == pair.annotators[b]).count();
        same as f64 / pairs.len() as f64
    });
    let shares: Vec<f64> = shares.collect();
    (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
}

fn fleiss(pairs: &[&JudgedPair], count: usize) -> Option<f64> {
    let votes = |pair: &JudgedPair, outcome: Winner| {
        pair.annotators[..count].iter().filter(|&&vote| vote == outcome).count() as f64
    };
    let n = count as f64;
    let cases = pairs.len() as f64;
    let agreeing = |pair: &&JudgedPair| {
        OUTCOMES.iter().map(|&one| votes(pair, one) * (votes(pair, one) - 1.0)).sum::<f64>() / (n * (n - 1.0))
    };
    let agreed = pairs.iter().map(agreeing).sum::<f64>() / cases;
    let share = |outcome: Winner| pairs.iter().map(|pair| votes(pair, outcome)).sum::<f64>() / (n * cases);
    let by_chance = OUTCOMES.iter().map(|&one| share(one).powi(2)).sum();
    if count < 2 { None } else { kappa(agreed, by_chance) }
}

/// (observed − chance) / (1 − chance).
fn kappa(observed: f64, by_chance: f64) -> Option<f64> {
    (by_chance < 1.0 - 1e-12).then(|| (observed - by_chance) / (1.0 - by_chance))
}
