//! Preferences → single responses, for losses that take no pairs: labelled ones, the best of each prompt, or whole groups.
//!
//! As in the rules of pairs, a candidate outside the length filter counts in the means and is never handed on, differences below 1e-6
//! are ties, and what differs by no more than `margin` is left out: of a labelled response ŝ (from 0, the mean of all), of the best and of
//! groups the spread of the mean scores. `rule` says which pairs there are, and has no meaning here.

use selfplay_records::{Completion, ExampleKind, Message};

use crate::error::PairingFault;
use crate::join::{JoinedPrompt, check_learnable, conversation, join};
use crate::rules::{MIN_SPREAD, Reason, best_worst, eligible};
use crate::{DropCounts, PairSettings, PairingError};

/// What a selection of completions made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SelectedCompletions {
    /// In the candidates' order, those of a prompt next to each other.
    pub rows: Vec<Completion>,
    /// Prompts that gave none, by reason.
    pub dropped: DropCounts,
}

impl SelectedCompletions {
    /// Takes the rows and counts of a later selection.
    pub fn append(&mut self, later: Self) {
        self.rows.extend(later.rows);
        self.dropped.add(later.dropped);
    }
}

/// The completions of each prompt, of candidates and preferences that are joined as for pairs. `kind`: any but pairs, of which there are
/// none here.
///
/// # Errors
/// See [`PairingError`]; all of them are wrong input.
pub fn select_completions(
    candidates: &[selfplay_records::Candidates],
    preferences: &[selfplay_records::Preference],
    settings: &PairSettings,
    kind: ExampleKind,
) -> Result<SelectedCompletions, PairingError> {
    settings.validate().within("pair").into_result(PairingFault::Settings)?;
    let mut selected = SelectedCompletions::default();
    for prompt in join(candidates, preferences)? {
        match choose(&prompt, settings, kind)? {
            Ok(rows) => selected.rows.extend(rows),
            Err(reason) => *reason.counter(&mut selected.dropped) += 1,
        }
    }
    Ok(selected)
}

/// The completions of a prompt, or why there are none.
fn choose(
    prompt: &JoinedPrompt<'_>,
    settings: &PairSettings,
    kind: ExampleKind,
) -> Result<Result<Vec<Completion>, Reason>, PairingError> {
    let responses = &prompt.candidates.responses;
    if responses.len() < 2 {
        return Ok(Err(Reason::Single));
    }
    let eligible = eligible(responses, settings, &prompt.prompt_id)?;
    if eligible.len() < 2 {
        return Ok(Err(Reason::Length));
    }
    let means = &prompt.preference.mean_scores;
    let ends = best_worst(means, &eligible);
    let spread = means[ends.chosen] - means[ends.rejected];
    let enough = |difference: f64| match difference {
        tie if tie < MIN_SPREAD => Err(Reason::Tie),
        close if close <= settings.margin => Err(Reason::Margin),
        _ => Ok(()),
    };
    let farthest = eligible.iter().map(|&i| means[i].abs()).fold(0.0, f64::max);
    let difference = match kind {
        ExampleKind::Pairs => return Ok(Ok(Vec::new())),
        ExampleKind::Best | ExampleKind::Groups => spread,
        ExampleKind::Unpaired => farthest,
    };
    if let Err(reason) = enough(difference) {
        return Ok(Err(reason));
    }
    let labelled = |i: usize| -> Result<Completion, PairingError> {
        Ok(Completion { label: Some(means[i] > 0.0), ..completion(prompt, i)? })
    };
    let rows = match kind {
        ExampleKind::Pairs => Ok(Vec::new()),
        ExampleKind::Best => completion(prompt, ends.chosen).map(|best| vec![best]),
        ExampleKind::Groups => group(prompt, &eligible),
        ExampleKind::Unpaired => {
            let far = eligible.iter().copied().filter(|&i| enough(means[i].abs()).is_ok());
            far.map(labelled).collect()
        }
    };
    rows.map(Ok)
}

/// All eligible responses, each with its advantages over all.
fn group(prompt: &JoinedPrompt<'_>, eligible: &[usize]) -> Result<Vec<Completion>, PairingError> {
    let (means, preference) = (&prompt.preference.mean_scores, prompt.preference);
    let n = means.len().max(1) as f64;
    let mean = means.iter().sum::<f64>() / n;
    let deviation = (means.iter().map(|s| (s - mean) * (s - mean)).sum::<f64>() / n).sqrt();
    let of = |table: &Option<Vec<Vec<f64>>>, i: usize| table.as_ref().and_then(|table| table.get(i).cloned());
    let one = |&i: &usize| -> Result<Completion, PairingError> {
        Ok(Completion {
            advantage: Some((means[i] - mean) / (deviation + MIN_SPREAD)),
            axis_advantages: of(&preference.axis_advantages, i),
            axis_rewards: of(&preference.axis_rewards, i),
            logprobs: prompt.candidates.responses[i].logprobs.clone(),
            ..completion(prompt, i)?
        })
    };
    eligible.iter().map(one).collect()
}

fn completion(prompt: &JoinedPrompt<'_>, i: usize) -> Result<Completion, PairingError> {
    check_learnable(prompt.candidates, &prompt.prompt_id, i)?;
    let response = &prompt.candidates.responses[i];
    let turns = conversation(&prompt.candidates.prompt);
    Ok(Completion {
        prompt_id: Some(prompt.prompt_id.clone()),
        completion: turns.is_some().then(|| vec![Message::assistant(response.text.as_str())]),
        prompt: turns,
        prompt_ids: prompt.candidates.prompt.prompt_ids.clone(),
        completion_ids: response.ids.clone(),
        score: Some(prompt.preference.mean_scores[i]),
        ..Completion::default()
    })
}
