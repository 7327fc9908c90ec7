//! Joins candidates with their preferences, checks that they belong together, and makes the pairs that the rule picks.

use std::collections::{HashMap, HashSet};

use selfplay_records::{Candidates, Message, Pair, Preference, Prompt, Response};
use serde::{Deserialize, Serialize};

use crate::error::PairingFault;
use crate::prompt_rng::PromptRng;
use crate::rules::{Choice, PairIndices, choose};
use crate::{PairSettings, PairingError};

/// What a selection made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selected {
    /// In the candidates' order.
    pub pairs: Vec<Pair>,
    /// Prompts that gave no pair, by reason.
    pub dropped: DropCounts,
}

impl Selected {
    /// Takes the pairs and counts of a later selection.
    pub fn append(&mut self, later: Self) {
        self.pairs.extend(later.pairs);
        let (all, more) = (&mut self.dropped, later.dropped);
        all.single += more.single;
        all.length += more.length;
        all.tie += more.tie;
        all.margin += more.margin;
    }
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
    settings.validate().within("pair").into_result(PairingFault::Settings)?;
    let by_prompt = index_preferences(preferences)?;
    let mut selected = Selected::default();
    let mut seen = HashSet::new();
    for (row, candidates) in candidates.iter().enumerate() {
        let prompt_id = id_or_row(&candidates.prompt.prompt_id, row);
        if !seen.insert(prompt_id.clone()) {
            return Err(PairingFault::Twice { file: "candidates", row, prompt_id }.into());
        }
        let Some(&preference) = by_prompt.get(&prompt_id) else {
            return Err(PairingFault::MissingPreference { row, prompt_id }.into());
        };
        check(candidates, preference, &prompt_id)?;
        let mut rng = PromptRng::new(seed, iteration, &prompt_id);
        match choose(candidates, preference, settings, &prompt_id, &mut rng)? {
            Choice::Pairs(pairs) => {
                selected
                    .pairs
                    .extend(pairs.iter().map(|indices| pair(candidates, preference, &prompt_id, indices)));
            }
            Choice::None(reason) => *reason.counter(&mut selected.dropped) += 1,
        }
    }
    Ok(selected)
}

fn pair(candidates: &Candidates, preference: &Preference, prompt_id: &str, indices: &PairIndices) -> Pair {
    let conversation = conversation(&candidates.prompt);
    let (chosen, rejected) = (&candidates.responses[indices.chosen], &candidates.responses[indices.rejected]);
    let with = |response: &Response| {
        let mut turns = conversation.clone()?;
        turns.push(Message::assistant(response.text.as_str()));
        Some(turns)
    };
    let (w, l) = (indices.numbers_of.chosen, indices.numbers_of.rejected);
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
        initial_chosen_logps: None,
        initial_rejected_logps: None,
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
            return Err(PairingFault::Twice { file: "preferences", row, prompt_id }.into());
        }
    }
    Ok(by_prompt)
}

/// That the preference row is of these candidates, and finite.
fn check(candidates: &Candidates, preference: &Preference, prompt_id: &str) -> Result<(), PairingError> {
    let prompt = &candidates.prompt;
    let prompt_id = || prompt_id.to_owned();
    if prompt.prompt.is_none() && prompt.messages.is_none() && prompt.prompt_ids.is_none() {
        return Err(PairingFault::NoPrompt { prompt_id: prompt_id() }.into());
    }
    if let Some(found) = &preference.candidates_digest {
        let expected = candidates.digest();
        if *found != expected {
            return Err(PairingFault::OtherCandidates {
                prompt_id: prompt_id(),
                found: found.clone(),
                expected,
            }
            .into());
        }
    }
    let k = candidates.responses.len();
    for (field, table) in [("scores", &preference.scores), ("probabilities", &preference.probabilities)] {
        if table.len() != k || table.iter().any(|row| row.len() != k) {
            return Err(PairingFault::Shape { prompt_id: prompt_id(), field, k }.into());
        }
        if let Some(response) = table.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
            return Err(PairingFault::NotFinite { prompt_id: prompt_id(), response, field }.into());
        }
    }
    let means =
        [("mean_scores", &preference.mean_scores), ("mean_probabilities", &preference.mean_probabilities)];
    for (field, row) in means {
        if row.len() != k {
            return Err(PairingFault::Shape { prompt_id: prompt_id(), field, k }.into());
        }
        if let Some(response) = row.iter().position(|x| !x.is_finite()) {
            return Err(PairingFault::NotFinite { prompt_id: prompt_id(), response, field }.into());
        }
    }
    Ok(())
}
