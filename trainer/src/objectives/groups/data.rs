//! The groups of a training. Their tokens and log-probs are in memory up to a bound and in a file without a name beyond it: what a large
//! data set takes in memory is some 70 bytes for each of its responses and 80 for each group.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use super::token_group::{GroupResponse, TokenGroup};
use crate::TrainError;
use crate::objectives::Examples;
use crate::token_store::TokenStore;

/// The groups of a training, in their order.
pub struct GroupData {
    /// Token ids, and the bits of log-probs.
    numbers: TokenStore,
    groups: Vec<StoredGroup>,
    responses: Vec<StoredResponse>,
    /// Tokens of a prompt and a response at most: what responses are cut to as they are read.
    limit: usize,
}

/// A group but for its numbers.
struct StoredGroup {
    name: Box<str>,
    prompt: StoredList,
    /// Places of its responses.
    responses: Range<usize>,
}

/// A response but for its numbers.
#[derive(Clone, Copy)]
struct StoredResponse {
    ids: StoredList,
    advantage: f64,
    old: Option<StoredList>,
    reference: Option<StoredList>,
}

/// Where a list's numbers are.
#[derive(Clone, Copy)]
struct StoredList {
    start: u64,
    count: u32,
}

/// Which of a response's log-probs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LogProbList {
    /// Under the policy that sampled it.
    Old,
    /// Under the reference.
    Reference,
}

/// What the cut to `max_length` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CutGroups {
    /// Groups with a response that is cut.
    pub(super) truncated: usize,
    /// Groups whose prompts leave no room, which are left out.
    pub(super) skipped: usize,
}

impl GroupData {
    /// No groups yet; `folder` is where numbers go that do not fit into memory.
    pub fn new(folder: &Path) -> Self {
        Self::over(TokenStore::new(folder))
    }

    pub(crate) fn over(numbers: TokenStore) -> Self {
        Self { numbers, groups: Vec::new(), responses: Vec::new(), limit: usize::MAX }
    }

    /// Adds a group.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, group: &TokenGroup) -> Result<(), TrainError> {
        let prompt = self.store(&group.prompt)?;
        let first = self.responses.len();
        for response in &group.responses {
            let ids = self.store(&response.ids)?;
            let old = self.store_log_probs(response.old.as_deref())?;
            let reference = self.store_log_probs(response.reference.as_deref())?;
            self.responses.push(StoredResponse { ids, advantage: response.advantage, old, reference });
        }
        let responses = first..self.responses.len();
        self.groups.push(StoredGroup { name: group.name.as_str().into(), prompt, responses });
        Ok(())
    }

    fn store(&mut self, list: &[u32]) -> Result<StoredList, TrainError> {
        Ok(StoredList { start: self.numbers.push(&[list])?, count: list.len() as u32 })
    }

    fn store_log_probs(&mut self, list: Option<&[f32]>) -> Result<Option<StoredList>, TrainError> {
        let bits = list.map(|list| list.iter().map(|value| value.to_bits()).collect::<Vec<u32>>());
        bits.map(|bits| self.store(&bits)).transpose()
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The name of the first group.
    pub(super) fn first_name(&self) -> Option<&str> {
        self.groups.first().map(|group| &*group.name)
    }

    /// The name of the first group without a prompt, with fewer than two responses or with an empty one.
    pub(super) fn first_incomplete(&self) -> Option<&str> {
        let is_incomplete = |group: &&StoredGroup| {
            let responses = self.responses_of(group);
            group.prompt.count == 0 || responses.len() < 2 || responses.iter().any(|one| one.ids.count == 0)
        };
        self.groups.iter().find(is_incomplete).map(|group| &*group.name)
    }

    /// From now on cuts every response to what its prompt leaves of so many tokens, and leaves out the groups whose prompts leave nothing.
    pub(super) fn cut(&mut self, limit: usize) -> CutGroups {
        self.limit = limit;
        let before = self.groups.len();
        self.groups.retain(|group| (group.prompt.count as usize) < limit);
        let is_cut = |group: &&StoredGroup| {
            let room = self.room(group);
            self.responses_of(group).iter().any(|response| response.ids.count as usize > room)
        };
        let truncated = self.groups.iter().filter(is_cut).count();
        CutGroups { truncated, skipped: before - self.groups.len() }
    }

    /// Whether every response has these log-probs.
    pub(super) fn have(&self, list: LogProbList) -> bool {
        let mut responses = self.groups.iter().flat_map(|group| self.responses_of(group));
        responses.all(|response| list.of(response).is_some())
    }

    /// Gives a group's responses the log-probs that they lack, in their order.
    ///
    /// # Errors
    /// When the file cannot be written.
    fn fill(&mut self, group: usize, list: LogProbList, values: &[Vec<f32>]) -> Result<(), TrainError> {
        for (place, values) in self.groups[group].responses.clone().zip(values) {
            if list.of(&self.responses[place]).is_none() {
                let stored = self.store_log_probs(Some(values))?;
                *list.of_mut(&mut self.responses[place]) = stored;
            }
        }
        Ok(())
    }

    /// As [`GroupData::fill`], of all groups.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn fill_all(&mut self, list: LogProbList, values: &[Vec<Vec<f32>>]) -> Result<(), TrainError> {
        (0..self.len()).zip(values).try_for_each(|(group, values)| self.fill(group, list, values))
    }

    /// Tokens of each of a group's responses, after the cut.
    pub(super) fn response_lengths(&self, group: usize) -> Vec<usize> {
        let group = &self.groups[group];
        let room = self.room(group);
        self.responses_of(group).iter().map(|response| (response.ids.count as usize).min(room)).collect()
    }

    /// A group, cut.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn get(&self, index: usize) -> Result<TokenGroup, TrainError> {
        let stored = &self.groups[index];
        let room = self.room(stored);
        let read = |list: StoredList| self.numbers.get(list.start, (list.count as usize).min(room));
        let log_probs = |list: Option<StoredList>| -> Result<Option<Vec<f32>>, TrainError> {
            let bits = list.map(read).transpose()?;
            Ok(bits.map(|bits| bits.into_iter().map(f32::from_bits).collect()))
        };
        let response = |response: &StoredResponse| {
            Ok(GroupResponse {
                ids: read(response.ids)?,
                advantage: response.advantage,
                old: log_probs(response.old)?,
                reference: log_probs(response.reference)?,
            })
        };
        Ok(TokenGroup {
            name: stored.name.to_string(),
            prompt: self.numbers.get(stored.prompt.start, stored.prompt.count as usize)?,
            responses: self
                .responses_of(stored)
                .iter()
                .map(response)
                .collect::<Result<Vec<GroupResponse>, TrainError>>()?,
        })
    }

    fn responses_of(&self, group: &StoredGroup) -> &[StoredResponse] {
        &self.responses[group.responses.clone()]
    }

    /// Tokens that a group's prompt leaves to each of its responses.
    fn room(&self, group: &StoredGroup) -> usize {
        self.limit.saturating_sub(group.prompt.count as usize)
    }
}

impl LogProbList {
    fn of(self, response: &StoredResponse) -> Option<StoredList> {
        match self {
            Self::Old => response.old,
            Self::Reference => response.reference,
        }
    }

    fn of_mut(self, response: &mut StoredResponse) -> &mut Option<StoredList> {
        match self {
            Self::Old => &mut response.old,
            Self::Reference => &mut response.reference,
        }
    }
}

impl Examples for GroupData {
    fn count(&self) -> usize {
        self.len()
    }

    fn name(&self, example: usize) -> Cow<'_, str> {
        Cow::Borrowed(&self.groups[example].name)
    }

    fn tokens(&self, example: usize) -> usize {
        self.groups[example].prompt.count as usize + self.response_lengths(example).iter().sum::<usize>()
    }
}

impl From<Vec<TokenGroup>> for GroupData {
    /// Groups that stay in memory.
    fn from(groups: Vec<TokenGroup>) -> Self {
        let mut data = Self::over(TokenStore::in_memory());
        for group in &groups {
            // Nothing is written, so nothing can fail.
            let _ = data.push(group);
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objectives::Example;

    fn group(i: u32) -> TokenGroup {
        let response = |place: u32| GroupResponse {
            ids: (i..i + 2 + place).collect(),
            advantage: f64::from(i) - f64::from(place),
            old: i.is_multiple_of(2).then(|| (0..2 + place).map(|token| -0.1 - token as f32).collect()),
            reference: None,
        };
        TokenGroup {
            name: format!("completion {i}"),
            prompt: vec![i; 1 + i as usize % 3],
            responses: (0..2 + i % 2).map(response).collect(),
        }
    }

    #[test]
    fn groups_come_back_whole_cut_and_filled_from_memory_and_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut data = GroupData::over(TokenStore::bounded(folder.path(), 30));
        (0..9).for_each(|i| data.push(&group(i)).unwrap());
        assert!(data.numbers.has_spilled());
        for i in [8, 0, 3] {
            assert_eq!(data.get(i).unwrap(), group(i as u32));
            assert_eq!(Examples::tokens(&data, i), group(i as u32).tokens());
        }
        assert!(!data.have(LogProbList::Old) && data.first_incomplete().is_none());

        // Prompts of 1, 2, 3 tokens, responses of 2, 3 and sometimes 4: with 3 tokens in all the prompts of 3 are left out.
        assert_eq!(data.cut(3), CutGroups { truncated: 6, skipped: 3 });
        assert_eq!((data.len(), data.first_name()), (6, Some("completion 0")));
        let kept: Vec<u32> = (0..9).filter(|i| i % 3 < 2).collect();
        let values = |group: &TokenGroup| -> Vec<Vec<f32>> {
            group.responses.iter().map(|response| vec![-7.5; response.ids.len()]).collect()
        };
        for (index, &i) in kept.iter().enumerate() {
            let cut = data.get(index).unwrap();
            assert_eq!(cut.prompt, group(i).prompt);
            assert!(cut.responses.iter().all(|one| one.ids.len() == 3 - cut.prompt.len()));
            assert_eq!(Examples::tokens(&data, index), cut.tokens());
            data.fill(index, LogProbList::Old, &values(&cut)).unwrap();
            data.fill(index, LogProbList::Reference, &values(&cut)).unwrap();
            let filled = data.get(index).unwrap();
            assert_eq!(filled.responses.len(), group(i).responses.len());
            for (now, before) in filled.responses.iter().zip(&group(i).responses) {
                let room = now.ids.len();
                assert_eq!(now.ids, before.ids[..room]);
                // What was there stays.
                let old = before.old.as_ref().map_or(vec![-7.5; room], |old| old[..room].to_vec());
                assert_eq!((now.old.as_ref(), now.reference.as_ref()), (Some(&old), Some(&vec![-7.5; room])));
            }
        }
        assert!(data.have(LogProbList::Old) && data.have(LogProbList::Reference));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn incomplete_groups_are_named() {
        let mut alone = group(1);
        alone.responses.truncate(1);
        let mut empty = group(2);
        empty.responses[1].ids.clear();
        let bare = TokenGroup { prompt: Vec::new(), ..group(3) };
        for wrong in [alone, empty, bare] {
            let name = wrong.name.clone();
            assert_eq!(GroupData::from(vec![group(0), wrong]).first_incomplete(), Some(name.as_str()));
        }
    }
}
