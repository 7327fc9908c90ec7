//! An iteration's candidates with their preferences: numbers of all of them, texts of a few.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use selfplay_records::{Candidates, FinishReason, Pair, RecordError, Response, count_rows, read_rows_at};
use selfplay_scorer::has_cycle;

use super::super::super::samples::question;
use super::super::model::{CandidateNumbers, PairRole, SampleAnswer, ScoredLength, TrainedSample};
use super::shard_rows::{PreferenceNumbers, ShardRows};
use crate::run::dir::IterationDir;

/// The finished shards of an iteration.
pub(super) struct IterationShards {
    iteration: usize,
    candidates: Vec<PathBuf>,
    preferences: PathBuf,
    problem: Option<String>,
}

/// The pairs whose texts are shown, by their prompts.
pub(super) struct TrainedPairs {
    of: usize,
    shown: HashMap<String, Pair>,
}

impl TrainedPairs {
    /// `count` of the pairs in a file, spread evenly over them.
    ///
    /// # Errors
    /// A file that does not read.
    pub(super) fn read(file: &Path, count: usize) -> Result<Self, RecordError> {
        let of = count_rows(file)?;
        let shown: Vec<Pair> = read_rows_at(file, &spread(of, count))?;
        let shown = shown.into_iter().filter_map(|pair| Some((pair.prompt_id.clone()?, pair))).collect();
        Ok(Self { of, shown })
    }

    /// No pairs.
    pub(super) fn none() -> Self {
        Self { of: 0, shown: HashMap::new() }
    }
}

/// `count` of `of` places, spread evenly.
fn spread(of: usize, count: usize) -> Vec<usize> {
    let is_shown =
        |place: &usize| place * count / of.max(1) != (place + 1) * count / of.max(1) || of <= count;
    (0..of).filter(is_shown).collect()
}

/// What was found in the shards.
#[derive(Default)]
pub(super) struct FoundCandidates {
    pub(super) numbers: CandidateNumbers,
    pub(super) samples: Vec<TrainedSample>,
    pub(super) pairs: usize,
    pub(super) problems: Vec<String>,
    cycles: usize,
    compared: usize,
}

impl IterationShards {
    /// The shards on disk.
    pub(super) fn of(dir: &IterationDir, iteration: usize) -> Self {
        let (shards, problem) = match dir.state() {
            Ok(state) => (state.candidates, None),
            Err(error) => (Default::default(), Some(error.to_string())),
        };
        let candidates = shards.into_iter().map(|shard| dir.candidates_shard(shard)).collect();
        Self { iteration, candidates, preferences: dir.preferences(), problem }
    }

    /// Reads all of them; a shard that does not read is named among the problems.
    pub(super) fn read(&self, pairs: &TrainedPairs) -> FoundCandidates {
        let parts: Vec<FoundCandidates> =
            self.candidates.par_iter().map(|file| self.shard(file, pairs)).collect();
        let mut all = FoundCandidates { pairs: pairs.of, ..FoundCandidates::default() };
        all.numbers.iteration = self.iteration;
        all.problems.extend(self.problem.clone());
        for part in parts {
            all.numbers.prompts += part.numbers.prompts;
            all.numbers.lengths.extend(part.numbers.lengths);
            all.numbers.scored.extend(part.numbers.scored);
            all.samples.extend(part.samples);
            all.problems.extend(part.problems);
            all.cycles += part.cycles;
            all.compared += part.compared;
        }
        if all.compared > 0 {
            all.numbers.cyclic = Some(all.cycles as f64 / all.compared as f64);
        }
        all
    }

    fn shard(&self, file: &Path, pairs: &TrainedPairs) -> FoundCandidates {
        let mut found = FoundCandidates::default();
        let rows = match ShardRows::read(file, &|id| pairs.shown.contains_key(id)) {
            Ok(rows) => rows,
            Err(error) => {
                found.problems.push(error.to_string());
                return found;
            }
        };
        let scored = self.preferences.join(file.file_name().unwrap_or_default());
        let preferences: Vec<PreferenceNumbers> = match scored.is_file() {
            false => Vec::new(),
            true => PreferenceNumbers::read(&scored).unwrap_or_else(|problem| {
                found.problems.push(problem);
                Vec::new()
            }),
        };
        let by_prompt: HashMap<&str, &PreferenceNumbers> =
            preferences.iter().map(|row| (row.prompt_id.as_str(), row)).collect();
        // Opponents of earlier iterations stand behind the row's own candidates.
        let preference_of = |prompt_id: &str, responses: usize| {
            let found = by_prompt.get(prompt_id).copied();
            found.filter(|found| found.mean_probabilities.len() >= responses)
        };
        found.numbers.prompts = rows.lengths.len();
        found.compared = preferences.len();
        found.cycles = preferences.iter().filter(|row| has_cycle(&row.scores)).count();
        for (prompt_id, lengths) in rows.prompt_ids.iter().zip(&rows.lengths) {
            found.numbers.lengths.extend_from_slice(lengths);
            if let Some(preference) = preference_of(prompt_id, lengths.len()) {
                let scored = lengths.iter().zip(&preference.mean_probabilities);
                let scored = scored.map(|(&length, &one)| ScoredLength { length, probability: one as f32 });
                found.numbers.scored.extend(scored);
            }
        }
        for row in &rows.shown {
            let prompt_id = &row.prompt.prompt_id;
            if let Some(pair) = pairs.shown.get(prompt_id) {
                found.samples.push(self.sample(row, preference_of(prompt_id, row.responses.len()), pair));
            }
        }
        found
    }

    fn sample(&self, row: &Candidates, preference: Option<&PreferenceNumbers>, pair: &Pair) -> TrainedSample {
        let role = |response: &Response| match response {
            one if is_response(one, pair.chosen_ids.as_deref(), last_text(&pair.chosen)) => {
                Some(PairRole::Chosen)
            }
            one if is_response(one, pair.rejected_ids.as_deref(), last_text(&pair.rejected)) => {
                Some(PairRole::Rejected)
            }
            _ => None,
        };
        let mut candidates: Vec<SampleAnswer> = row
            .responses
            .iter()
            .enumerate()
            .map(|(place, response)| SampleAnswer {
                probability: preference.and_then(|found| found.mean_probabilities.get(place).copied()),
                role: role(response),
                ..answer(response)
            })
            .collect();
        let worth = |one: &SampleAnswer| one.probability.unwrap_or(0.0);
        candidates.sort_by(|a, b| worth(b).total_cmp(&worth(a)));
        TrainedSample {
            iteration: self.iteration,
            prompt_id: row.prompt.prompt_id.clone(),
            prompt: question(&row.prompt),
            candidates,
            probability: pair.chosen_probs,
        }
    }
}

/// An answer without what a preference model says of it.
pub(super) fn answer(response: &Response) -> SampleAnswer {
    SampleAnswer {
        text: response.text.clone(),
        tokens: response.ids.as_ref().map(Vec::len),
        is_limited: response.finish_reason == Some(FinishReason::Length),
        ..SampleAnswer::default()
    }
}

fn last_text(conversation: &Option<Vec<selfplay_records::Message>>) -> Option<&str> {
    conversation.as_ref().and_then(|turns| turns.last()).map(|turn| turn.content.as_str())
}

/// Whether a response is a pair's: by its ids, else by its text.
fn is_response(response: &Response, ids: Option<&[u32]>, text: Option<&str>) -> bool {
    match (response.ids.as_deref(), ids) {
        (Some(mine), Some(wanted)) => mine == wanted,
        _ => text == Some(response.text.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_that_are_shown_are_spread_over_all() {
        assert_eq!(spread(3, 10), [0, 1, 2]);
        assert_eq!(spread(100, 4), [24, 49, 74, 99]);
        assert!(spread(0, 4).is_empty());
    }

    #[test]
    fn a_pairs_responses_are_known_by_ids_else_by_text() {
        let response = Response { text: "a".into(), ids: Some(vec![1]), ..Response::default() };
        assert!(is_response(&response, Some(&[1]), Some("b")));
        assert!(!is_response(&response, Some(&[2]), Some("a")));
        assert!(is_response(&response, None, Some("a")));
    }
}
