//! Candidates beside their preferences, prompt by prompt, once they are known to belong together.

use std::collections::{HashMap, HashSet};

use selfplay_records::{Candidates, Message, Preference, Prompt};

use crate::PairingError;
use crate::error::PairingFault;

/// A prompt's candidates with the preferences that compare them.
pub(crate) struct JoinedPrompt<'a> {
    pub(crate) prompt_id: String,
    pub(crate) candidates: &'a Candidates,
    pub(crate) preference: &'a Preference,
}

/// Joins candidates and preferences by `prompt_id` (a row without one: its 0-based number, in either file), in the candidates' order.
/// Preferences of prompts that are not among the candidates are left aside.
///
/// # Errors
/// A prompt that is there twice or without its preferences; preferences of other candidates; a number that is not finite.
pub(crate) fn join<'a>(
    candidates: &'a [Candidates],
    preferences: &'a [Preference],
) -> Result<Vec<JoinedPrompt<'a>>, PairingError> {
    let by_prompt = index_preferences(preferences)?;
    let mut seen = HashSet::new();
    let mut joined = Vec::with_capacity(candidates.len());
    for (row, candidates) in candidates.iter().enumerate() {
        let prompt_id = id_or_row(&candidates.prompt.prompt_id, row);
        if !seen.insert(prompt_id.clone()) {
            return Err(PairingFault::Twice { file: "candidates", row, prompt_id }.into());
        }
        let Some(&preference) = by_prompt.get(&prompt_id) else {
            return Err(PairingFault::MissingPreference { row, prompt_id }.into());
        };
        check(candidates, preference, &prompt_id)?;
        joined.push(JoinedPrompt { prompt_id, candidates, preference });
    }
    Ok(joined)
}

/// The prompt's turns; `None` where it is token ids only, and then what is made of it has ids only.
pub(crate) fn conversation(prompt: &Prompt) -> Option<Vec<Message>> {
    prompt.messages.clone().or_else(|| prompt.prompt.as_deref().map(|text| vec![Message::user(text)]))
}

/// That a response that was picked can be learnt from: by its ids, or by its text after a prompt that is text.
///
/// # Errors
/// It has neither, or an empty list of ids.
pub(crate) fn check_learnable(
    candidates: &Candidates,
    prompt_id: &str,
    response: usize,
) -> Result<(), PairingError> {
    let has_text = candidates.prompt.prompt.is_some() || candidates.prompt.messages.is_some();
    let found = match &candidates.responses[response].ids {
        Some(ids) if ids.is_empty() => "no token in `ids`",
        None if !has_text => "no `ids` after a prompt of ids",
        _ => return Ok(()),
    };
    Err(PairingFault::NotLearnable { prompt_id: prompt_id.to_owned(), response, found, has_text }.into())
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
