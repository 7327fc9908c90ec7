//! Candidates and preferences → pairs: which response is chosen, which is rejected.
//!
//! `docs/algorithms.md`, "One iteration", step 3: the mean score per candidate, chosen = argmax, rejected = argmin
//! (the reference pipeline's rule, `best-worst`). The other rules are one function each below. Pure: the same rows,
//! settings, seed and iteration give the same pairs.
//!
//! Where the contract is silent: a candidate outside the length filter still counts in the means (its text was
//! compared), it is only never chosen nor rejected. `margin` is what a pair's difference has to exceed: of s(i ≻ j) in
//! `all-above-margin`, of the two mean scores in `best-worst` and `best-random`.

mod draw;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use selfplay_records::{Candidates, HasKind, Kind, Message, Pair, Preference, Problems, Prompt, Response};
use serde::{Deserialize, Serialize};

use draw::Draw;
pub use settings::{PairRule, PairSettings};

/// A smaller difference is a tie and gives no pair.
pub const MIN_SPREAD: f64 = 1e-6;

/// What a selection made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// In the candidates' order.
    pub pairs: Vec<Pair>,
    /// Prompts that gave no pair, by reason.
    pub dropped: DropCounts,
}

/// Prompts that gave no pair, each counted under one reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCounts {
    /// Fewer than two responses.
    pub single: usize,
    /// Fewer than two responses within `min_tokens` and `max_tokens`.
    pub length: usize,
    /// No difference of 1e-6 or more.
    pub tie: usize,
    /// A difference, but none above `margin`.
    pub margin: usize,
}

impl DropCounts {
    /// All of them.
    pub fn total(&self) -> usize {
        self.single + self.length + self.tie + self.margin
    }
}

/// Rows that do not belong together, or cannot be paired.
#[derive(Debug, thiserror::Error)]
pub enum PairingError {
    /// Wrong values in `[pair]`, all of them.
    #[error("{0}")]
    Settings(Problems),
    /// A prompt without its preference row.
    #[error(
        "candidates row {row}: no preference row has prompt_id {prompt_id:?}; score these candidates with `selfplay score`"
    )]
    MissingPreference {
        /// 0-based number of the candidates' row.
        row: usize,
        /// Its prompt.
        prompt_id: String,
    },
    /// The same prompt twice in one file.
    #[error("{file} row {row}: prompt_id {prompt_id:?} is there twice; expected one row per prompt")]
    Twice {
        /// `candidates` or `preferences`.
        file: &'static str,
        /// 0-based number of the second row.
        row: usize,
        /// The prompt.
        prompt_id: String,
    },
    /// A preference row of other candidates.
    #[error(
        "preferences of prompt_id {prompt_id:?}: {field} has not {k} entries where the candidates have {k} responses; \
         they are of other candidates: score these with `selfplay score`"
    )]
    Shape {
        /// The prompt.
        prompt_id: String,
        /// `scores`, `probabilities`, `mean_scores` or `mean_probabilities`.
        field: &'static str,
        /// Responses of the candidates' row.
        k: usize,
    },
    /// A preference row of other responses to the same prompt.
    #[error(
        "preferences of prompt_id {prompt_id:?}: they compare other responses than the candidates hold \
         (candidates_digest {found:?}, and theirs is {expected:?}): score these candidates with `selfplay score`"
    )]
    OtherCandidates {
        /// The prompt.
        prompt_id: String,
        /// The preferences' digest.
        found: String,
        /// The candidates' digest.
        expected: String,
    },
    /// A score that is not a number.
    #[error("preferences of prompt_id {prompt_id:?}, response {response}: {field} is not finite")]
    NotFinite {
        /// The prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
        /// The field that holds it.
        field: &'static str,
    },
    /// A length filter over responses that have no ids to count.
    #[error(
        "candidates of prompt_id {prompt_id:?}, response {response}: no `ids`, which pair.min_tokens and \
         pair.max_tokens count; leave both out or give the ids"
    )]
    NoIds {
        /// The prompt.
        prompt_id: String,
        /// 0-based number of the response.
        response: usize,
    },
    /// A row without any prompt.
    #[error(
        "candidates of prompt_id {prompt_id:?}: no `prompt`, `messages` or `prompt_ids`; expected one of them"
    )]
    NoPrompt {
        /// The prompt.
        prompt_id: String,
    },
}

impl HasKind for PairingError {
    /// Always the input: this stage has no other way to fail.
    fn kind(&self) -> Kind {
        Kind::Input
    }
}

/// Joins candidates and preferences by `prompt_id` (a row without one: its 0-based number, in either file) and picks
/// the pairs of each prompt. Preferences of prompts that are not among the candidates are left aside.
///
/// # Errors
/// See [`PairingError`]; all of them are wrong input.
pub fn select(
    candidates: &[Candidates],
    preferences: &[Preference],
    settings: &PairSettings,
    seed: u64,
    iteration: u64,
) -> Result<Selected, PairingError> {
    settings.validate().within("pair").into_result(PairingError::Settings)?;
    let by_prompt = index_preferences(preferences)?;
    let mut selected = Selected::default();
    let mut seen = HashSet::new();
    for (row, candidates) in candidates.iter().enumerate() {
        let prompt_id = id_or_row(&candidates.prompt.prompt_id, row);
        if !seen.insert(prompt_id.clone()) {
            return Err(PairingError::Twice { file: "candidates", row, prompt_id });
        }
        let Some(&preference) = by_prompt.get(&prompt_id) else {
            return Err(PairingError::MissingPreference { row, prompt_id });
        };
        check(candidates, preference, &prompt_id)?;
        let mut draw = Draw::new(seed, iteration, &prompt_id);
        match choose(candidates, preference, settings, &prompt_id, &mut draw)? {
            Choice::Pairs(picks) => {
                selected
                    .pairs
                    .extend(picks.iter().map(|pick| pair(candidates, preference, &prompt_id, pick)));
            }
            Choice::None(reason) => *reason.counter(&mut selected.dropped) += 1,
        }
    }
    Ok(selected)
}

/// Indices of a pair's responses, and of the two whose numbers it takes (the same but in the control).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pick {
    chosen: usize,
    rejected: usize,
    numbers_of: Numbers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Numbers {
    chosen: usize,
    rejected: usize,
}

impl Pick {
    fn new(chosen: usize, rejected: usize) -> Self {
        Self { chosen, rejected, numbers_of: Numbers { chosen, rejected } }
    }
}

enum Choice {
    Pairs(Vec<Pick>),
    None(Reason),
}

#[derive(Clone, Copy)]
enum Reason {
    Single,
    Length,
    Tie,
    Margin,
}

impl Reason {
    fn counter(self, counts: &mut DropCounts) -> &mut usize {
        match self {
            Self::Single => &mut counts.single,
            Self::Length => &mut counts.length,
            Self::Tie => &mut counts.tie,
            Self::Margin => &mut counts.margin,
        }
    }
}

fn choose(
    candidates: &Candidates,
    preference: &Preference,
    settings: &PairSettings,
    prompt_id: &str,
    draw: &mut Draw,
) -> Result<Choice, PairingError> {
    if candidates.responses.len() < 2 {
        return Ok(Choice::None(Reason::Single));
    }
    let eligible = eligible(&candidates.responses, settings, prompt_id)?;
    if eligible.len() < 2 {
        return Ok(Choice::None(Reason::Length));
    }
    let means = &preference.mean_scores;
    let by_means = |pick: Pick| single(pick, means[pick.chosen] - means[pick.rejected], settings.margin);
    Ok(match settings.rule {
        PairRule::BestWorst => by_means(best_worst(means, &eligible)),
        PairRule::BestRandom => by_means(best_random(means, &eligible, draw)),
        PairRule::AllAboveMargin => all_above_margin(&preference.scores, &eligible, settings.margin),
        PairRule::Random => {
            let numbers = best_worst(means, &eligible);
            let spread = means[numbers.chosen] - means[numbers.rejected];
            single(random(numbers, &eligible, draw), spread, settings.margin)
        }
    })
}

fn single(pick: Pick, difference: f64, margin: f64) -> Choice {
    if difference < MIN_SPREAD {
        Choice::None(Reason::Tie)
    } else if difference <= margin {
        Choice::None(Reason::Margin)
    } else {
        Choice::Pairs(vec![pick])
    }
}

/// Highest against lowest mean score; of equal ones the lowest index.
fn best_worst(means: &[f64], eligible: &[usize]) -> Pick {
    let (mut best, mut worst) = (eligible[0], eligible[0]);
    for &i in eligible {
        if means[i] > means[best] {
            best = i;
        }
        if means[i] < means[worst] {
            worst = i;
        }
    }
    Pick::new(best, worst)
}

/// Highest mean score against any of the others, each as likely.
fn best_random(means: &[f64], eligible: &[usize], draw: &mut Draw) -> Pick {
    let best = best_worst(means, eligible).chosen;
    let others: Vec<usize> = eligible.iter().copied().filter(|&i| i != best).collect();
    Pick::new(best, others[draw.below(others.len())])
}

/// A control: two different responses at random, with the numbers that best-worst would have given its pair. So a
/// loss that reads scores meets the targets of a true run, on responses that have nothing to do with them.
fn random(numbers: Pick, eligible: &[usize], draw: &mut Draw) -> Pick {
    let chosen = eligible[draw.below(eligible.len())];
    let others: Vec<usize> = eligible.iter().copied().filter(|&i| i != chosen).collect();
    Pick { chosen, rejected: others[draw.below(others.len())], numbers_of: numbers.numbers_of }
}

/// Every (i, j) with s(i ≻ j) > margin, by i, then by j.
fn all_above_margin(scores: &[Vec<f64>], eligible: &[usize], margin: f64) -> Choice {
    let ordered = || eligible.iter().flat_map(|&i| eligible.iter().map(move |&j| Pick::new(i, j)));
    let score = |pick: &Pick| scores[pick.chosen][pick.rejected];
    let picks: Vec<Pick> =
        ordered().filter(|p| p.chosen != p.rejected && score(p) > margin && score(p) >= MIN_SPREAD).collect();
    if !picks.is_empty() {
        Choice::Pairs(picks)
    } else if ordered().any(|pick| score(&pick) >= MIN_SPREAD) {
        Choice::None(Reason::Margin)
    } else {
        Choice::None(Reason::Tie)
    }
}

/// Indices of the responses within the length filter.
fn eligible(
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
            return Err(PairingError::NoIds { prompt_id: prompt_id.to_owned(), response });
        };
        if within.contains(&ids.len()) {
            kept.push(response);
        }
    }
    Ok(kept)
}

fn pair(candidates: &Candidates, preference: &Preference, prompt_id: &str, pick: &Pick) -> Pair {
    let conversation = conversation(&candidates.prompt);
    let (chosen, rejected) = (&candidates.responses[pick.chosen], &candidates.responses[pick.rejected]);
    let with = |response: &Response| {
        let mut turns = conversation.clone()?;
        turns.push(Message::assistant(response.text.as_str()));
        Some(turns)
    };
    let (w, l) = (pick.numbers_of.chosen, pick.numbers_of.rejected);
    Pair {
        prompt_id: Some(prompt_id.to_owned()),
        chosen: with(chosen),
        rejected: with(rejected),
        prompt_ids: candidates.prompt.prompt_ids.clone(),
        chosen_ids: chosen.ids.clone(),
        rejected_ids: rejected.ids.clone(),
        chosen_probs: Some(preference.probabilities[w][l]),
        chosen_probs_win: Some(preference.mean_probabilities[w]),
        chosen_probs_lose: Some(preference.mean_probabilities[l]),
        chosen_score: Some(preference.scores[w][l]),
        chosen_score_win: Some(preference.mean_scores[w]),
        chosen_score_lose: Some(preference.mean_scores[l]),
        prompt: conversation,
        ref_chosen_logps: None,
        ref_rejected_logps: None,
    }
}

/// The prompt's turns; `None` where it is token ids only, and then the pair has ids only.
fn conversation(prompt: &Prompt) -> Option<Vec<Message>> {
    prompt.messages.clone().or_else(|| prompt.prompt.as_deref().map(|text| vec![Message::user(text)]))
}

fn id_or_row(prompt_id: &str, row: usize) -> String {
    if prompt_id.is_empty() { row.to_string() } else { prompt_id.to_owned() }
}

fn index_preferences(preferences: &[Preference]) -> Result<HashMap<String, &Preference>, PairingError> {
    let mut by_prompt = HashMap::with_capacity(preferences.len());
    for (row, preference) in preferences.iter().enumerate() {
        let prompt_id = id_or_row(&preference.prompt_id, row);
        if by_prompt.insert(prompt_id.clone(), preference).is_some() {
            return Err(PairingError::Twice { file: "preferences", row, prompt_id });
        }
    }
    Ok(by_prompt)
}

/// That the preference row is of these candidates, and finite.
fn check(candidates: &Candidates, preference: &Preference, prompt_id: &str) -> Result<(), PairingError> {
    let prompt = &candidates.prompt;
    let prompt_id = || prompt_id.to_owned();
    if prompt.prompt.is_none() && prompt.messages.is_none() && prompt.prompt_ids.is_none() {
        return Err(PairingError::NoPrompt { prompt_id: prompt_id() });
    }
    if let Some(found) = &preference.candidates_digest {
        let expected = candidates.digest();
        if *found != expected {
            return Err(PairingError::OtherCandidates {
                prompt_id: prompt_id(),
                found: found.clone(),
                expected,
            });
        }
    }
    let k = candidates.responses.len();
    for (field, table) in [("scores", &preference.scores), ("probabilities", &preference.probabilities)] {
        if table.len() != k || table.iter().any(|row| row.len() != k) {
            return Err(PairingError::Shape { prompt_id: prompt_id(), field, k });
        }
        if let Some(response) = table.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
            return Err(PairingError::NotFinite { prompt_id: prompt_id(), response, field });
        }
    }
    let means =
        [("mean_scores", &preference.mean_scores), ("mean_probabilities", &preference.mean_probabilities)];
    for (field, row) in means {
        if row.len() != k {
            return Err(PairingError::Shape { prompt_id: prompt_id(), field, k });
        }
        if let Some(response) = row.iter().position(|x| !x.is_finite()) {
            return Err(PairingError::NotFinite { prompt_id: prompt_id(), response, field });
        }
    }
    Ok(())
}
