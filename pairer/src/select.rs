//! The pairs that the rule picks of each prompt.

use selfplay_records::{Candidates, Message, Pair, Preference, Response};
use serde::{Deserialize, Serialize};

use crate::error::PairingFault;
use crate::join::{check_learnable, conversation, join};
use crate::prompt_rng::PromptRng;
use crate::rules::{PairChoice, PairIndices, choose};
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
        self.dropped.add(later.dropped);
    }
}

/// Prompts that gave nothing to train on, each counted under one reason.
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
    /// Takes the counts of a later selection.
    pub(crate) fn add(&mut self, later: Self) {
        self.single += later.single;
        self.length += later.length;
        self.tie += later.tie;
        self.margin += later.margin;
    }

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
    let mut selected = Selected::default();
    for prompt in join(candidates, preferences)? {
        let (candidates, preference, prompt_id) = (prompt.candidates, prompt.preference, prompt.prompt_id);
        let mut rng = PromptRng::new(seed, iteration, &prompt_id);
        match choose(candidates, preference, settings, &prompt_id, &mut rng)? {
            PairChoice::Pairs(pairs) => {
                for indices in &pairs {
                    check_learnable(candidates, &prompt_id, indices.chosen)?;
                    check_learnable(candidates, &prompt_id, indices.rejected)?;
                    selected.pairs.push(pair(candidates, preference, &prompt_id, indices));
                }
            }
            PairChoice::None(reason) => *reason.counter(&mut selected.dropped) += 1,
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
