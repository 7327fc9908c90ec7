//! The rules: which responses of a prompt become pairs, from its table of preferences. One function each.
//!
//! Where the contract is silent: a candidate outside the length filter still counts in the means (its text was
//! compared), it is only never chosen nor rejected. `margin` is what a pair's difference has to exceed: of s(i ≻ j) in
//! `all-above-margin`, of the two mean scores in `best-worst` and `best-random`. Each rule reads the entry s(i ≻ j) that it
//! means; none makes it from s(j ≻ i).

use selfplay_records::{Candidates, Preference, Response};

use crate::error::PairingFault;
use crate::prompt_rng::PromptRng;
use crate::{DropCounts, PairRule, PairSettings, PairingError};

/// A smaller difference is a tie and gives no pair.
pub(crate) const MIN_SPREAD: f64 = 1e-6;

/// Indices of a pair's responses, and of the two whose scores it has (the same two, except in the control).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PairIndices {
    pub(crate) chosen: usize,
    pub(crate) rejected: usize,
    pub(crate) numbers_of: NumberSource,
}

/// The two responses whose scores and probabilities a pair has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumberSource {
    pub(crate) chosen: usize,
    pub(crate) rejected: usize,
}

impl PairIndices {
    fn new(chosen: usize, rejected: usize) -> Self {
        Self { chosen, rejected, numbers_of: NumberSource { chosen, rejected } }
    }
}

/// The pairs of a prompt.
pub(crate) enum PairChoice {
    Pairs(Vec<PairIndices>),
    None(Reason),
}

/// Why a prompt gives no pair.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    Single,
    Length,
    Tie,
    Margin,
}

impl Reason {
    /// Where it is counted.
    pub(crate) fn counter(self, counts: &mut DropCounts) -> &mut usize {
        match self {
            Self::Single => &mut counts.single,
            Self::Length => &mut counts.length,
            Self::Tie => &mut counts.tie,
            Self::Margin => &mut counts.margin,
        }
    }
}

/// The pairs of one prompt by the rule of the settings.
pub(crate) fn choose(
    candidates: &Candidates,
    preference: &Preference,
    settings: &PairSettings,
    prompt_id: &str,
    rng: &mut PromptRng,
) -> Result<PairChoice, PairingError> {
    if candidates.responses.len() < 2 {
        return Ok(PairChoice::None(Reason::Single));
    }
    let eligible = eligible(&candidates.responses, settings, prompt_id)?;
    if eligible.len() < 2 {
        return Ok(PairChoice::None(Reason::Length));
    }
    let means = &preference.mean_scores;
    let by_means =
        |pair: PairIndices| single(pair, means[pair.chosen] - means[pair.rejected], settings.margin);
    Ok(match settings.rule {
        PairRule::BestWorst => by_means(best_worst(means, &eligible)),
        PairRule::BestRandom => by_means(best_random(means, &eligible, rng)),
        PairRule::AllAboveMargin => all_above_margin(&preference.scores, &eligible, settings.margin),
        PairRule::All => all(means, &eligible),
        PairRule::Random => {
            let numbers = best_worst(means, &eligible);
            let spread = means[numbers.chosen] - means[numbers.rejected];
            single(random(numbers, &eligible, rng), spread, settings.margin)
        }
    })
}

fn single(pair: PairIndices, difference: f64, margin: f64) -> PairChoice {
    if difference < MIN_SPREAD {
        PairChoice::None(Reason::Tie)
    } else if difference <= margin {
        PairChoice::None(Reason::Margin)
    } else {
        PairChoice::Pairs(vec![pair])
    }
}

/// Highest against lowest mean score; of equal ones the lowest index.
pub(crate) fn best_worst(means: &[f64], eligible: &[usize]) -> PairIndices {
    let (mut best, mut worst) = (eligible[0], eligible[0]);
    for &i in eligible {
        if means[i] > means[best] {
            best = i;
        }
        if means[i] < means[worst] {
            worst = i;
        }
    }
    PairIndices::new(best, worst)
}

/// Highest mean score against any of the others, each as likely.
fn best_random(means: &[f64], eligible: &[usize], rng: &mut PromptRng) -> PairIndices {
    let best = best_worst(means, eligible).chosen;
    let others: Vec<usize> = eligible.iter().copied().filter(|&i| i != best).collect();
    PairIndices::new(best, others[rng.below(others.len())])
}

/// A control: two different responses at random, with the numbers that best-worst would have given its pair. So a
/// loss that reads scores meets the targets of a true run, on responses that have nothing to do with them.
fn random(numbers: PairIndices, eligible: &[usize], rng: &mut PromptRng) -> PairIndices {
    let chosen = eligible[rng.below(eligible.len())];
    let others: Vec<usize> = eligible.iter().copied().filter(|&i| i != chosen).collect();
    PairIndices { chosen, rejected: others[rng.below(others.len())], numbers_of: numbers.numbers_of }
}

/// Every (i, j) with s(i ≻ j) > margin, by i, then by j.
fn all_above_margin(scores: &[Vec<f64>], eligible: &[usize], margin: f64) -> PairChoice {
    let ordered = || eligible.iter().flat_map(|&i| eligible.iter().map(move |&j| PairIndices::new(i, j)));
    let score = |pair: &PairIndices| scores[pair.chosen][pair.rejected];
    let pairs: Vec<PairIndices> =
        ordered().filter(|p| p.chosen != p.rejected && score(p) > margin && score(p) >= MIN_SPREAD).collect();
    if !pairs.is_empty() {
        PairChoice::Pairs(pairs)
    } else if ordered().any(|pair| score(&pair) >= MIN_SPREAD) {
        PairChoice::None(Reason::Margin)
    } else {
        PairChoice::None(Reason::Tie)
    }
}

/// Every two responses, the one with the higher mean score chosen; of equal ones the lower index. A tie is a pair too: a loss over the
/// whole table reads how close two are.
fn all(means: &[f64], eligible: &[usize]) -> PairChoice {
    let two = |(place, &i): (usize, &usize)| {
        let ordered = move |&j: &usize| {
            if means[j] > means[i] { PairIndices::new(j, i) } else { PairIndices::new(i, j) }
        };
        eligible[place + 1..].iter().map(ordered).collect::<Vec<_>>()
    };
    PairChoice::Pairs(eligible.iter().enumerate().flat_map(two).collect())
}

/// Indices of the responses within the length filter.
pub(crate) fn eligible(
    responses: &[Response],
    settings: &PairSettings,
    prompt_id: &str,
) -> Result<Vec<usize>, PairingError> {
    if settings.min_tokens.is_none() && settings.max_tokens.is_none() {
        return Ok((0..responses.len()).collect());
    }
    let within = settings.min_tokens.unwrap_or(0)..=settings.max_tokens.unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    for (response, ids) in responses.iter().map(|r| r.ids.as_ref()).enumerate() {
        let Some(ids) = ids else {
            return Err(PairingFault::NoIds { prompt_id: prompt_id.to_owned(), response }.into());
        };
        if within.contains(&ids.len()) {
            kept.push(response);
        }
    }
    Ok(kept)
}
